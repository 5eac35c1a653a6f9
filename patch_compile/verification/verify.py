"""The command `verify`: answers independent questions about a finished build, and finds where quality went."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from masklearn import BaselineRow, BesideBaselines, open_text
from masklearn.masks.maskset import MaskSet
from masklearn.model.checkpoint import InputSnapshot
from patch_compile.artifacts.folder import OutFolder, kept_for_writing
from patch_compile.artifacts.layout import (
    ENGINE,
    MASKS,
    MODEL,
    ONNX,
    REPORT,
    SCRATCH,
    VERIFY_FOLDER,
    VERIFY_NAME,
)
from patch_compile.artifacts.manifest import EvalText, package_versions
from patch_compile.artifacts.plan import Plan
from patch_compile.artifacts.proof import TextWindows
from patch_compile.artifacts.report import read_report
from patch_compile.artifacts.verify import (
    ComparedRun,
    EngineCompared,
    EngineNotRun,
    NotRun,
    OnnxCheck,
    Outcome,
    PrunedOutputs,
    PrunedPerplexity,
    Question,
    VerifiedText,
    VerifyReport,
)
from patch_compile.artifacts.workspace import key_of
from patch_compile.errors import PatchCompileError
from patch_compile.progress import Progress, quiet_libraries
from patch_compile.recipe import Recipe
from patch_compile.report.loss import GIVE_DENSE, NO_DENSE
from patch_compile.sources.base import OutputSource, ProvenSource, TextSource, TokenSource
from patch_compile.sources.open import check_unchanged, files_of_model, needed, open_source
from patch_compile.verification.request import VerifyRequest, check_figures

Answers = Iterator[tuple[str, Any]]
"""Names of fields of `VerifyReport`, and their values."""


def verify(path: Path, request: VerifyRequest) -> VerifyReport:
    """Answer the request about OUT, write OUT/verify, and return its verify.json.

    Raises PatchCompileError if a file of OUT was changed, the dense model is missing, the text is too short, the model does
    not fit into memory for a question, or another process writes into OUT. A failed check raises nothing: it is the
    `outcome`.
    """
    from patch_compile.report.page.write import renew_page

    progress = Progress()
    with kept_for_writing(path):
        with progress.stage("manifest"):
            out = OutFolder.open(path)
        _check_whole(out)
        recipe = _recipe(out, request)
        source = open_source(recipe)
        recipe.check_held_out()
        quiet_libraries([getattr(recipe, name) for name in source.format.texts], hubs=bool(request.tasks))
        with out.replacing(VERIFY_FOLDER) as folder:
            (folder / SCRATCH).mkdir()
            report = Verification(out, source, request, folder, progress).report()
            report.write(folder / VERIFY_NAME)
            shutil.rmtree(folder / SCRATCH)
        out.record_folder(VERIFY_FOLDER, key_of(request.model_dump(mode="json")))
        renew_page(out.path)  # it shows the answers
    return report


def _check_whole(out: OutFolder) -> None:
    """Refuse the output of `learn` and `compile`, which is less than a build."""
    masks = out.path / MASKS
    for name in (REPORT, ONNX, MODEL):
        if not (out.path / name).exists():
            raise PatchCompileError(
                f"{out.path} is not a whole build",
                f"It holds no {name}.",
                f"Build it: `patch-compile build MODEL_DIR --mask {masks if masks.exists() else 'FILE'}`.",
            )


def _recipe(out: OutFolder, request: VerifyRequest) -> Recipe:
    given = request.model_dump(include={"eval_text", "eval_windows", "eval_length"}, exclude_none=True)
    return Recipe.parse(Recipe.of_build(out.path).model_dump(exclude_none=True) | given)


@dataclass(frozen=True)
class Verification:
    """A verification: an open build, its source with the text of the request, and the folder that answers are written
    to."""

    out: OutFolder
    source: ProvenSource
    request: VerifyRequest
    folder: Path
    progress: Progress

    def report(self) -> VerifyReport:
        """Answer the request.

        Raises PatchCompileError if the model has changed since the build or changes meanwhile, or cannot answer a question.
        """
        found = self._inputs
        for flag, given in (("--baselines", self.request.baselines), ("--tasks", self.request.tasks)):
            if given:
                needed(self.source, TokenSource, flag)  # type: ignore[type-abstract]
        source = self.source if isinstance(self.source, TokenSource) else None
        check_figures(self.request.fail_on, decoder=source is not None, dense_given=self._dense_given)
        if self.request.baselines and not self._dense_given:
            raise PatchCompileError("--baselines can't be measured", NO_DENSE, GIVE_DENSE)
        check_unchanged(self.source, self.out)
        if self._of_text and self._runs_as_a_whole(decoder=source is not None):
            _check_memory(self._of_text)  # a run block by block would need less
        answers = dict(self._about_next_tokens(source) if source else self._about_outputs())
        found.check()
        pruned = answers.get("pruned")
        report = VerifyReport(
            date=datetime.now(UTC).isoformat(timespec="seconds"),
            versions=package_versions(),
            kind=self.source.kind,
            dense_given=self._dense_given,
            asked=self._asked,
            outcome=Outcome.NOT_CHECKED,
            checks=tuple(limit.check(pruned) for limit in self.request.fail_on if pruned),
            notes=tuple(self.progress.notes),
            seconds=self.progress.seconds,
            **answers,
        )
        return report.model_copy(update={"outcome": _outcome(report)})

    @property
    def _scratch(self) -> Path:
        return self.folder / SCRATCH

    @property
    def _pruned(self) -> Path:
        return self.out.path / self.source.format.pruned_file

    @property
    def _of_text(self) -> TextSource | None:
        return self.source if isinstance(self.source, TextSource) else None

    @cached_property
    def _inputs(self) -> InputSnapshot:
        """The files of the model, and of the evaluation text, at the first access."""
        text = self.source.recipe.eval_text if self._of_text else None
        texts = () if text is None else open_text(text).files
        return InputSnapshot.of(lambda: (*files_of_model(self.source), *texts))

    @cached_property
    def _masks(self) -> MaskSet:
        return MaskSet.load(self.out.path / MASKS)

    @cached_property
    def _dense_given(self) -> bool:
        report = read_report(self.out.path)
        return report is None or report.dense_given

    @property
    def _asked(self) -> tuple[Question, ...]:
        """The questions that the user named, else all that this build can answer: not `built` without an engine, and not
        `where` for a graph without blocks."""
        if "only" in self.request.model_fields_set:
            return self.request.only
        lacking = {
            Question.BUILT: not (self.out.path / ENGINE).is_file(),
            Question.WHERE: self._of_text is None,
        }
        return tuple(question for question in self.request.only if not lacking.get(question, False))

    def _runs_as_a_whole(self, *, decoder: bool) -> bool:
        """True if a request needs the whole model in memory, not block by block."""
        r = self.request
        proves = r.asks(Question.COMPILED) or r.asks(Question.PRUNED)
        return bool(r.tasks or (not decoder and proves))

    def _about_next_tokens(self, source: TokenSource) -> Answers:
        request, out = self.request, self.out.path
        windows, text = source.evaluation(self.progress)
        if request.asks(Question.COMPILED) or request.asks(Question.BUILT):
            _check_long_enough(windows, max(request.lengths) + 1)
        yield "text", _record_of(windows, text)
        if request.tasks:  # first, because a task may be refused
            from patch_compile.verification.tasks import run_tasks

            with self.progress.stage("tasks", bar=False):  # the harness shows its own
                yield "tasks", run_tasks(out, source.recipe, request)
        if request.asks(Question.COMPILED):
            from patch_compile.verification.compiled import compiled_right

            place = (out, self.folder, windows, request, self._scratch, self.progress)
            yield "compiled", compiled_right(source, self._masks, *place)
        if request.asks(Question.PRUNED) or request.asks(Question.WHERE):
            yield from self._compared(source, windows, text.name)
        if request.asks(Question.BUILT):
            from patch_compile.verification.built import built_right

            prompts = [windows[0, :length] for length in request.lengths]
            dtype, layers = source.recipe.dtype, source.layers
            yield "built", built_right(out, prompts, dtype, layers, self.progress, trust=request.trust)

    def _about_outputs(self) -> Answers:
        """Repeat the proof of the build. Also find where quality went, if its blocks can be run. The engine is not
        run."""
        asks = self.request.asks
        if asks(Question.COMPILED) or asks(Question.PRUNED):
            yield from self._proven()
        if asks(Question.WHERE) and self._of_text:
            windows, text = self._of_text.evaluation(self.progress)
            yield from self._compared(self._of_text, windows, text.name)
        if asks(Question.BUILT):
            engine = (self.out.path / ENGINE).is_file()  # only engines of decoders have a runtime here
            yield "built", EngineNotRun(reason=NotRun.NO_RUNTIME if engine else NotRun.NO_ENGINE)

    def _proven(self) -> Answers:
        from patch_compile.verification.outputs import compare_outputs

        assert isinstance(self.source, OutputSource), "it is asked only of sources without next tokens"
        plan = Plan.of(self.out.path)
        place = (self.out.path / ONNX, self._pruned, plan.packed if plan else [])
        proof, fault = compare_outputs(self.source, *place, self._scratch, self.progress)
        agreement, asks = proof.agreement, self.request.asks
        if proof.text:
            yield "text", VerifiedText(**proof.text.eval.as_json())
        if asks(Question.COMPILED):
            run = ComparedRun(phase="whole", error=agreement.error)
            same = {name: getattr(agreement, name) for name in ("error", "tolerance", "output")}
            yield "compiled", OnnxCheck(passed=fault is None, runs=(run,), **same)
        if asks(Question.PRUNED):
            outputs = proof.difference.outputs
            yield "pruned", PrunedOutputs(outputs=outputs, inputs=proof.inputs, embeddings=proof.embeddings)

    def _compared(self, source: TextSource, windows: NDArray[np.int64], text: str) -> Answers:
        """Answer the questions about pruning: how much quality it cost, where it went, and the baselines."""
        from patch_compile.verification.pruned import compare_checkpoints, predictions_answer, where_answer

        request = self.request
        found = compare_checkpoints(
            source, self._masks, self._pruned, windows, request.device, self._scratch, self.progress
        )
        if request.asks(Question.WHERE):
            yield "where", where_answer(found)
        if found.predictions is None or found.logits is None or not request.asks(Question.PRUNED):
            return
        count, length = windows.shape
        on = TextWindows(name=text, windows=count, length=length, dtype="float32", runner="checkpoints")
        pruned = predictions_answer(found.predictions, found.logits, on)
        yield "pruned", pruned
        if self._dense_given:
            yield "baselines", self._baselines(pruned.perplexity, windows)

    def _baselines(self, perplexity: PrunedPerplexity, windows: NDArray[np.int64]) -> BesideBaselines:
        from masklearn import with_types_of
        from patch_compile.verification.baselines import with_baselines

        masks = self._masks
        learning = with_types_of(masks, self.source.recipe.learning(masks))
        report = read_report(self.out.path)
        result = BaselineRow(
            name=masks.method,
            ratio=masks.ratio,
            perplexity=perplexity.pruned,
            # None if the build reused masks of an earlier run
            seconds=report.seconds.get("masks") if report else None,
            deployable=True,
            bytes_per_weight=masks.packed_bytes_per_weight,
        )
        place = (windows, self._scratch, self.progress, self._inputs.check)
        return with_baselines(self.source, learning, result, perplexity.dense, self.request.baselines, *place)


def _outcome(report: VerifyReport) -> Outcome:
    engine = report.built if isinstance(report.built, EngineCompared) else None
    judged = [answer for answer in (report.compiled, engine, *report.checks) if answer is not None]
    if not all(answer.passed for answer in judged):
        return Outcome.FAILED
    return Outcome.NOT_CHECKED if report.unanswered else Outcome.PASSED


def _record_of(windows: NDArray[np.int64], text: EvalText) -> VerifiedText:
    """Returns name, path and size of a text, and the sha256 of its tokens in the format of calibration records."""
    digest = hashlib.sha256(windows.astype("<i8").tobytes()).hexdigest()
    count, length = windows.shape
    size = {"windows": count, "length": length, "tokens": count * length}
    return VerifiedText(name=text.name, path=text.path, sha256=digest, **size)


def _check_long_enough(windows: NDArray[np.int64], longest: int) -> None:
    if windows.shape[1] < longest:
        raise PatchCompileError(
            f"A window of {windows.shape[1]} tokens is too short for a prefill of {longest - 1} and a step behind it",
            "Inputs are taken from the evaluation text.",
            f"Give --eval-length {longest} or more, or shorter --lengths.",
        )


def _check_memory(source: TextSource) -> None:
    """Raise PatchCompileError unless ONNX Runtime and transformers can each hold the model on this machine."""
    if not source.fits_in_memory:
        needed, free = (count / 1e9 for count in source.memory)
        raise PatchCompileError(
            "The model does not fit into memory to be run as a whole",
            f"That takes some {needed:.0f} GB, and {free:.0f} GB are free.",
            "Leave out --tasks, and ask --only where of an encoder; or take a machine with more memory.",
        )
