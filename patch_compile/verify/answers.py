"""Answers the questions of a verification."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from numpy.typing import NDArray

from masklearn.masks.maskset import MaskSet
from patch_compile.errors import AccuracyError, PatchCompileError
from patch_compile.out.folder import OutFolder
from patch_compile.out.layout import MASKS, ONNX, SCRATCH
from patch_compile.out.plan import Plan
from patch_compile.out.report import read_report
from patch_compile.progress import Progress
from patch_compile.sources.base import OutputSource, Source
from patch_compile.sources.kinds import Ability
from patch_compile.sources.open import check_unchanged
from patch_compile.verify.fail_on import check_figures
from patch_compile.verify.outputs import compare_outputs
from patch_compile.verify.request import Question, VerifyRequest

__all__ = ["Answers", "Verification"]

Answers = dict[str, Any]
# Bytes per weight at the peak: transformers holds 16-bit weights while it converts them to fp32, and ONNX Runtime holds
# its folded constants beside those of the file.
_PEAK_BYTES = 6
_PEAK_REST = 1 << 30  # bytes for the libraries, activations and logits


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
    def masks(self) -> MaskSet:
        """The masks of the build."""
        return MaskSet.load(self.out.path / MASKS)

    def answers(self) -> Answers:
        """Returns all requested answers in the format of verify.json.

        Raises PatchCompileError if the model has changed since the build, or cannot answer a question.
        """
        decoder = not self.source.lacks(Ability.NEXT_TOKENS)
        if not decoder:
            _refuse_what_it_lacks(self.request, self.source)
        check_figures(self.request.fail_on, decoder=decoder)
        check_unchanged(self.source, self.out)
        if self._runs_as_a_whole(decoder=decoder) and not self.source.lacks(Ability.BLOCKS):
            _check_memory(self.source.weights)  # a run block by block would need less
        return self._of_next_tokens() if decoder else self._of_outputs()

    def _runs_as_a_whole(self, *, decoder: bool) -> bool:
        """True if a request needs the whole model in memory, not block by block."""
        r = self.request
        return bool(
            r.asks(Question.COMPILED) or r.tasks or r.prompt or (not decoder and r.asks(Question.PRUNED))
        )

    def _of_next_tokens(self) -> Answers:
        windows, text = self.source.evaluation(self.progress)
        about = _record_of(windows, text)
        longest = max(self.request.lengths) + 1
        _check_long_enough(windows, longest)
        answers = {"text": about, **self._used()}  # first, because a task or a prompt may be refused
        if self.request.asks(Question.COMPILED):
            from patch_compile.verify.compiled import compiled_right

            place = (self.out.path, self.folder, windows, self.request, self.scratch, self.progress)
            answers["compiled"] = compiled_right(self.source, self.masks, *place)
        if self.request.asks(Question.PRUNED) or self.request.asks(Question.WHERE):
            self._note_overlap(windows)
            answers |= self._compared(windows, about)
        if self.request.asks(Question.BUILT):
            from patch_compile.verify.built import built_right

            prompts = [windows[0, :length] for length in self.request.lengths]
            dtype, layers = self.source.recipe.dtype, self.source.layers
            answers["built"] = built_right(
                self.out.path, prompts, dtype, layers, self.progress, trust=self.request.trust
            )
        return answers

    def _used(self) -> Answers:
        """Run both models on tasks and on the user's prompts."""
        request, found = self.request, Answers()
        if request.tasks:
            from patch_compile.verify.tasks import run_tasks

            with self.progress.stage("tasks") as update:
                found["tasks"] = run_tasks(
                    self.out,
                    request.tasks,
                    backend=request.task_backend,
                    limit=request.task_limit,
                    include=request.task_folder,
                    progress=update,
                    note=self.progress.note,
                )
        if request.prompt:
            from patch_compile.verify.generated import generated_diff

            with self.progress.stage("prompts") as update:
                found["generated"] = generated_diff(self.out, request.prompt, request.new_tokens, update)
        return found

    def _note_overlap(self, windows: NDArray[np.int64]) -> None:
        from patch_compile.verify.overlap import check_overlap

        with self.progress.stage("text seen before") as update:
            found = check_overlap(self.out, windows, self.source.recipe.eval_text, update)
        if found:
            self.progress.note(found)

    def _of_outputs(self) -> Answers:
        """Repeat the proof of the build. Also find where quality went, if its blocks can be run. The engine is not
        run."""
        answers: Answers = {}
        if self.request.asks(Question.COMPILED) or self.request.asks(Question.PRUNED):
            answers |= self._of_proof(*self._outputs_compared())
        if self.request.asks(Question.WHERE) and not self.source.lacks(Ability.BLOCKS):
            windows, _ = self.source.evaluation(self.progress)
            answers |= self._compared(windows, {})
        return answers | {"built": self._built_elsewhere()}

    def _outputs_compared(self) -> tuple[dict[str, Any], AccuracyError | None]:
        assert isinstance(self.source, OutputSource), "it is asked only of sources without next tokens"
        plan = Plan.of(self.out.path)
        packed = plan.packed if plan else []
        hybrid = self.out.path / ONNX
        return compare_outputs(self.source, hybrid, self.pruned, packed, self.scratch, self.progress)

    def _compared(self, windows: NDArray[np.int64], text: dict[str, Any]) -> Answers:
        """Returns the answers about pruning: how much quality it cost, where it went, and the baselines."""
        from patch_compile.verify.pruned import compare_checkpoints, describe_predictions, describe_where

        request = self.request
        found, changes = compare_checkpoints(
            self.source, self.masks, self.pruned, windows, request, self.scratch, self.progress
        )
        answers: Answers = {}
        if request.asks(Question.WHERE):
            answers["where"] = describe_where(found, changes)
        if found.predictions is None or found.logits is None or not request.asks(Question.PRUNED):
            return answers
        how = (
            f"{text['name']}, {windows.shape[0]} windows × {windows.shape[1]} tokens, fp32, both checkpoints"
        )
        answers["pruned"] = describe_predictions(found.predictions, found.logits, how)
        answers["baselines"] = self._baselines(answers["pruned"]["perplexity"], windows)
        return answers

    def _baselines(self, perplexity: dict[str, float], windows: NDArray[np.int64]) -> dict[str, Any]:
        from masklearn.quality.record import BaselineRow
        from patch_compile.verify.baselines import with_baselines

        masks, learning = self.masks, self.source.recipe.learning()
        if self.source.recipe.ratio is None:  # the ratio follows from given masks or from a speed
            learning = learning.model_copy(update={"ratio": masks.ratio})
        report = read_report(self.out.path) or {}
        seconds = report.get("seconds", {}).get("masks")  # None if the build reused masks of an earlier run
        result = BaselineRow(
            name=masks.method,
            ratio=masks.ratio,
            perplexity=perplexity["pruned"],
            seconds=seconds,
            deployable=True,
        )
        place = (windows, self.scratch, self.progress)
        found = with_baselines(
            self.source, learning, result, perplexity["dense"], self.request.baselines, *place
        )
        return found.model_dump(mode="json")

    def _of_proof(self, proof: dict[str, Any], fault: AccuracyError | None) -> Answers:
        """The proof of a build, as verify.json has it; what was not asked is left out."""
        agreement, inputs, asks = proof["agreement"], proof["inputs"], self.request.asks
        error = agreement["error"] if np.isfinite(agreement["error"]) else None
        about = {"name": inputs["words"], "phase": "whole", "tokens": None, "past": None}
        compiled = {
            "passed": fault is None,
            "error": error,
            "tolerance": agreement["tolerance"],
            "why": agreement["why"] if fault is None else f"{fault.what}: {fault.why}",
            "against": agreement["against"],
            "runs": [{**about, "error": error, "stats": None}],
            "first_difference": None,
        }
        how = f"compared on {inputs['compared']} runs of {inputs['words']}"
        return {
            "text": proof.get("text", {}).get("eval"),
            "compiled": compiled if asks(Question.COMPILED) else None,
            "pruned": {"outputs": proof["difference"]["outputs"], "how": how}
            if asks(Question.PRUNED)
            else None,
        }

    def _built_elsewhere(self) -> dict[str, Any] | None:
        """Returns the reason why the engine is not run: only engines of decoders have a runtime here."""
        if not self.request.asks(Question.BUILT):
            return None
        why = "engines of encoders and of ONNX files are compared with Polygraphy: samples/trtexec.md"
        return {"ran": False, "why": why}


def _record_of(windows: NDArray[np.int64], text: dict[str, Any]) -> dict[str, Any]:
    """Returns name, path and size of a text, and the sha256 of its tokens in the format of calibration records."""
    digest = hashlib.sha256(windows.astype("<i8").tobytes()).hexdigest()
    count, length = windows.shape
    return {**text, "sha256": digest, "windows": count, "length": length, "tokens": count * length}


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
                f"{flag} does not go with {source.words}", source.lacks(Ability.NEXT_TOKENS), f"Drop {flag}."
            )
