"""Answers the questions of a verification."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import psutil
from numpy.typing import NDArray

from masklearn import BaselineRow, BesideBaselines, open_text
from masklearn.masks.maskset import MaskSet
from masklearn.model.input_snapshot import InputSnapshot
from patch_compile.artifacts.folder import OutFolder
from patch_compile.artifacts.layout import ENGINE, MASKS, ONNX, SCRATCH
from patch_compile.artifacts.manifest import EvalText
from patch_compile.artifacts.overlap import TextOverlap
from patch_compile.artifacts.plan import Plan
from patch_compile.artifacts.proof import OutputsProof, TextRunner, TextWindows
from patch_compile.artifacts.report import read_report
from patch_compile.artifacts.tasks import TaskScores
from patch_compile.artifacts.verify import Question, VerifiedText
from patch_compile.artifacts.verify_schema import (
    ComparedRun,
    EngineCheck,
    EngineNotRun,
    ErrorAttribution,
    GeneratedText,
    NotRun,
    OnnxCheck,
    PrunedOutputs,
    PrunedPerplexity,
    QualityLoss,
)
from patch_compile.errors import AccuracyError, PatchCompileError
from patch_compile.progress import Progress
from patch_compile.sources.base import OutputSource, Source
from patch_compile.sources.inputs import files_of_model
from patch_compile.sources.kinds import Capability
from patch_compile.sources.open import check_unchanged
from patch_compile.verification.fail_on import check_figures
from patch_compile.verification.outputs import compare_outputs
from patch_compile.verification.request import VerifyRequest

__all__ = ["Answers", "Verification"]

# Bytes per weight at the peak: transformers holds 16-bit weights while it converts them to fp32, and ONNX Runtime holds
# its folded constants beside those of the file.
_PEAK_BYTES = 6
_PEAK_REST = 1 << 30  # bytes for the libraries, activations and logits


@dataclass
class Answers:
    """Answers to the questions, None where there is none."""

    text: VerifiedText | None = None
    compiled: OnnxCheck | None = None
    pruned: QualityLoss | None = None
    built: EngineCheck | None = None
    where: ErrorAttribution | None = None
    baselines: BesideBaselines | None = None
    tasks: TaskScores | None = None
    overlap: TextOverlap | None = None
    generated: tuple[GeneratedText, ...] = ()


@dataclass(frozen=True)
class Verification:
    """A verification: an open build, its source with the text of the request, and the folder that answers are written
    to."""

    out: OutFolder
    source: Source
    request: VerifyRequest
    folder: Path
    progress: Progress

    @property
    def scratch(self) -> Path:
        """Folder for files that are removed at the end."""
        return self.folder / SCRATCH

    @property
    def pruned(self) -> Path:
        """Path of the build's pruned model."""
        return self.out.path / self.source.pruned_file

    @cached_property
    def _inputs(self) -> InputSnapshot:
        """The files of the model, and of the evaluation text, at the first access."""
        text = self.source.recipe.eval_text if self.source.texts else None
        texts = () if text is None else open_text(text).files
        return InputSnapshot.of(lambda: (*files_of_model(self.source), *texts))

    @cached_property
    def masks(self) -> MaskSet:
        """The masks of the build."""
        return MaskSet.load(self.out.path / MASKS)

    @property
    def asked(self) -> tuple[Question, ...]:
        """The questions that the user named. If none was named, all that this build has an answer to: a build without an
        engine has nothing that could be built wrongly, and a graph without blocks no place of the error."""
        if "only" in self.request.model_fields_set:
            return self.request.only
        lacking = {
            Question.BUILT: not (self.out.path / ENGINE).is_file(),
            Question.WHERE: bool(self.source.why_not(Capability.BLOCKS)),
        }
        return tuple(question for question in self.request.only if not lacking.get(question, False))

    def answers(self) -> Answers:
        """Returns all requested answers.

        Raises PatchCompileError if the model has changed since the build or changes meanwhile, or cannot answer a question.
        """
        found = self._inputs
        decoder = not self.source.why_not(Capability.NEXT_TOKENS)
        if not decoder:
            _refuse_what_it_lacks(self.request, self.source)
        check_figures(self.request.fail_on, decoder=decoder)
        check_unchanged(self.source, self.out)
        if self._runs_as_a_whole(decoder=decoder) and not self.source.why_not(Capability.BLOCKS):
            _check_memory(self.source.weights)  # a run block by block would need less
        answers = self._of_next_tokens() if decoder else self._of_outputs()
        found.check()
        return answers

    def _runs_as_a_whole(self, *, decoder: bool) -> bool:
        """True if a request needs the whole model in memory, not block by block."""
        r = self.request
        return bool(
            r.asks(Question.COMPILED) or r.tasks or r.prompt or (not decoder and r.asks(Question.PRUNED))
        )

    def _of_next_tokens(self) -> Answers:
        windows, text = self.source.evaluation(self.progress)
        longest = max(self.request.lengths) + 1
        _check_long_enough(windows, longest)
        answers = Answers(text=_record_of(windows, text))
        self._use(answers)  # first, because a task or a prompt may be refused
        if self.request.asks(Question.COMPILED):
            from patch_compile.verification.compiled import compiled_right

            place = (self.out.path, self.folder, windows, self.request, self.scratch, self.progress)
            answers.compiled = compiled_right(self.source, self.masks, *place)
        if self.request.asks(Question.PRUNED) or self.request.asks(Question.WHERE):
            answers.overlap = self._overlap(windows)
            self._compare(answers, windows, text.name)
        if self.request.asks(Question.BUILT):
            from patch_compile.verification.built import built_right

            prompts = [windows[0, :length] for length in self.request.lengths]
            dtype, layers = self.source.recipe.dtype, self.source.layers
            answers.built = built_right(
                self.out.path, prompts, dtype, layers, self.progress, trust=self.request.trust
            )
        return answers

    def _use(self, answers: Answers) -> None:
        """Run both models on tasks and on the user's prompts."""
        request = self.request
        if request.tasks:
            from patch_compile.verification.tasks import run_tasks

            with self.progress.stage("tasks") as update:
                answers.tasks = run_tasks(
                    self.out,
                    request.tasks,
                    backend=request.task_backend,
                    limit=request.task_limit,
                    include=request.task_folder,
                    progress=update,
                    note=self.progress.note,
                )
        if request.prompt:
            from patch_compile.verification.generated import generated_diff

            with self.progress.stage("prompts") as update:
                answers.generated = generated_diff(self.out, request.prompt, request.new_tokens, update)

    def _overlap(self, windows: NDArray[np.int64]) -> TextOverlap | None:
        from patch_compile.report.overlap import overlap_words
        from patch_compile.verification.overlap import check_overlap

        with self.progress.stage("text seen before") as update:
            found = check_overlap(self.out, windows, self.source.recipe.eval_text, update)
        if found and (words := overlap_words(found)):
            self.progress.note(words)
        return found

    def _of_outputs(self) -> Answers:
        """Repeat the proof of the build. Also find where quality went, if its blocks can be run. The engine is not
        run."""
        answers, asks = Answers(), self.request.asks
        if asks(Question.COMPILED) or asks(Question.PRUNED):
            self._prove(answers, *self._outputs_compared())
        if asks(Question.WHERE) and not self.source.why_not(Capability.BLOCKS):
            windows, text = self.source.evaluation(self.progress)
            self._compare(answers, windows, text.name)
        if asks(Question.BUILT):
            engine = (self.out.path / ENGINE).is_file()  # only engines of decoders have a runtime here
            answers.built = EngineNotRun(reason=NotRun.NO_RUNTIME if engine else NotRun.NO_ENGINE)
        return answers

    def _outputs_compared(self) -> tuple[OutputsProof, AccuracyError | None]:
        assert isinstance(self.source, OutputSource), "it is asked only of sources without next tokens"
        plan = Plan.of(self.out.path)
        packed = plan.packed if plan else []
        hybrid = self.out.path / ONNX
        return compare_outputs(self.source, hybrid, self.pruned, packed, self.scratch, self.progress)

    def _compare(self, answers: Answers, windows: NDArray[np.int64], text: str) -> None:
        """Answer the questions about pruning: how much quality it cost, where it went, and the baselines."""
        from patch_compile.verification.pruned import compare_checkpoints, predictions_answer, where_answer

        request = self.request
        found, changes = compare_checkpoints(
            self.source, self.masks, self.pruned, windows, request, self.scratch, self.progress
        )
        if request.asks(Question.WHERE):
            answers.where = where_answer(found, changes)
        if found.predictions is None or found.logits is None or not request.asks(Question.PRUNED):
            return
        count, length = windows.shape
        on = TextWindows(
            name=text, windows=count, length=length, dtype="float32", runner=TextRunner.CHECKPOINTS
        )
        answers.pruned = pruned = predictions_answer(found.predictions, found.logits, on)
        answers.baselines = self._baselines(pruned.perplexity, windows)

    def _baselines(self, perplexity: PrunedPerplexity, windows: NDArray[np.int64]) -> BesideBaselines:
        from masklearn import with_types_of
        from patch_compile.verification.baselines import with_baselines

        masks = self.masks
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
        place = (windows, self.scratch, self.progress, self._inputs.check)
        return with_baselines(self.source, learning, result, perplexity.dense, self.request.baselines, *place)

    def _prove(self, answers: Answers, proof: OutputsProof, fault: AccuracyError | None) -> None:
        """Fill in what was asked from the proof of a build."""
        agreement, asks = proof.agreement, self.request.asks
        if proof.text:
            answers.text = VerifiedText(**proof.text.eval.as_json())
        if asks(Question.COMPILED):
            answers.compiled = OnnxCheck(
                passed=fault is None,
                error=agreement.error,
                tolerance=agreement.tolerance,
                output=agreement.output,
                runs=(ComparedRun(phase="whole", error=agreement.error),),
            )
        if asks(Question.PRUNED):
            answers.pruned = PrunedOutputs(outputs=proof.difference.outputs, inputs=proof.inputs)


def _record_of(windows: NDArray[np.int64], text: EvalText) -> VerifiedText:
    """Returns name, path and size of a text, and the sha256 of its tokens in the format of calibration records."""
    digest = hashlib.sha256(windows.astype("<i8").tobytes()).hexdigest()
    count, length = windows.shape
    return VerifiedText(
        name=text.name,
        path=text.path,
        sha256=digest,
        windows=count,
        length=length,
        tokens=count * length,
    )


def _check_long_enough(windows: NDArray[np.int64], longest: int) -> None:
    if windows.shape[1] < longest:
        raise PatchCompileError(
            f"A window of {windows.shape[1]} tokens is too short for a prefill of {longest - 1} and a step behind it",
            "Inputs are taken from the evaluation text.",
            f"Give --eval-length {longest} or more, or shorter --lengths.",
        )


def _check_memory(weights: int) -> None:
    """Raise PatchCompileError unless ONNX Runtime and transformers can each hold this number of weights on this
    machine."""
    needed, free = _PEAK_BYTES * weights + _PEAK_REST, psutil.virtual_memory().available
    if needed > free:
        raise PatchCompileError(
            "The model does not fit into memory to be run as a whole",
            f"That takes some {needed / 1e9:.0f} GB, and {free / 1e9:.0f} GB are free.",
            "Verify without it, block by block, with --only pruned,where; or on a machine with more memory.",
        )


def _refuse_what_it_lacks(request: VerifyRequest, source: Source) -> None:
    """Raise PatchCompileError for flags that only work for models that predict next tokens."""
    asked = {
        "--sensitivity": request.sensitivity,
        "--baselines": bool(request.baselines),
        "--tasks": bool(request.tasks),
        "--prompt": bool(request.prompt),
    }
    for flag, given in asked.items():
        if given:
            raise PatchCompileError(
                f"{flag} does not go with {source.words}",
                source.why_not(Capability.NEXT_TOKENS),
                f"Drop {flag}.",
            )
