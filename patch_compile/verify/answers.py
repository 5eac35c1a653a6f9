"""What a verification answers, question by question, of each kind of build."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from masklearn.checkpoint.architectures import architecture_of
from masklearn.checkpoint.checkpoint import Checkpoint
from masklearn.checkpoint.coverage import covered_linears_of
from masklearn.checkpoint.pretrained import load_tokenizer
from masklearn.masks.maskset import MaskSet
from patch_compile.errors import AccuracyError, PatchCompileError
from patch_compile.out.folder import OutFolder
from patch_compile.out.layout import MASKS, MODEL, ONNX, PLAN, PRUNED_ONNX, REPORT, SCRATCH
from patch_compile.progress import Progress
from patch_compile.recipe import Recipe
from patch_compile.sources.checkpoint.source import Job
from patch_compile.verify.agreement import layers_of
from patch_compile.verify.fail_on import check_figures
from patch_compile.verify.memory import check_memory
from patch_compile.verify.request import Question, VerifyRequest

__all__ = ["Answers", "Verification"]

Answers = dict[str, Any]


@dataclass(frozen=True)
class Verification:
    """What is verified: an open build, its recipe with the request's text, and the folder that answers go to."""

    out: OutFolder
    recipe: Recipe
    request: VerifyRequest
    folder: Path
    progress: Progress

    @property
    def scratch(self) -> Path:
        """For files that are gone at the end."""
        return self.folder / SCRATCH

    @cached_property
    def masks(self) -> MaskSet:
        """Those of the build."""
        return MaskSet.load(self.out.path / MASKS)

    @cached_property
    def job(self) -> Job:
        """The dense model as it was when the build began."""
        checkpoint = Checkpoint.open(self.recipe.model)
        _check_same_model(checkpoint.fingerprint(), self.out)
        coverage = covered_linears_of(checkpoint, self.recipe.include, self.recipe.exclude)
        return Job(self.recipe, self.out.path, checkpoint, coverage, None, "onnx", (), None)

    def checkpoint(self) -> Answers:
        """Of a build from a model folder."""
        encoder = architecture_of(self.job.checkpoint).encoder
        if encoder:
            _refuse_what_it_lacks(self.request, "an encoder")
        check_figures(self.request.fail_on, decoder=not encoder)
        if self._runs_as_a_whole(encoder):
            check_memory(self.job.checkpoint)
        return self._encoder() if encoder else self._decoder()

    def onnx(self) -> Answers:
        """Of a build from an ONNX file: its proof once more, on the inputs that it was built with."""
        from patch_compile.sources.onnx_model.prove import compare_onnx
        from patch_compile.sources.onnx_model.source import prepare_onnx

        _refuse_what_it_lacks(self.request, "a build from an ONNX file")
        check_figures(self.request.fail_on, decoder=False)
        recipe = self.recipe.model_copy(update={"backend": "onnx"})
        job = prepare_onnx(recipe, self.progress, force=True, resume=True)
        _check_same_model(job.fingerprint, self.out)
        plan = self.out.read_json(PLAN) or {"linears": []}
        packed = [row["name"] for row in plan["linears"] if row["lowering"] != "dense"]
        files = (self.out.path / ONNX, self.out.path / PRUNED_ONNX)
        proof, fault = compare_onnx(job, *files, packed, self.scratch / "runs", self.progress)
        return {**self._of_proof(proof, fault), "built": self._built_elsewhere()}

    def _runs_as_a_whole(self, encoder: bool) -> bool:
        """Whether something is asked that does not go block by block."""
        r = self.request
        return bool(r.asks(Question.COMPILED) or r.tasks or r.prompt or (encoder and r.asks(Question.PRUNED)))

    def _decoder(self) -> Answers:
        windows, text = self._windows()
        longest = max(self.request.lengths) + 1
        _check_long_enough(windows, longest)
        answers = {"text": text, **self._used()}  # first, for a task or a prompt may be refused
        if self.request.asks(Question.COMPILED):
            from patch_compile.verify.compiled import compiled_right

            place = (self.out.path, self.folder, windows, self.request, self.scratch, self.progress)
            answers["compiled"] = compiled_right(self.job, self.masks, *place)
        if self.request.asks(Question.PRUNED) or self.request.asks(Question.WHERE):
            self._note_overlap(windows)
            answers |= self._compared(windows, text)
        if self.request.asks(Question.BUILT):
            from patch_compile.verify.built import built_right

            prompts = [windows[0, :length] for length in self.request.lengths]
            layers = layers_of(self.recipe.model)
            answers["built"] = built_right(self.out.path, prompts, self.recipe.dtype, layers, self.progress)
        return answers

    def _used(self) -> Answers:
        """The models at work: tasks, and the user's own prompts."""
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
            found = check_overlap(self.out, windows, self.recipe.eval_text, update)
        if found:
            self.progress.note(found)

    def _encoder(self) -> Answers:
        from patch_compile.sources.checkpoint.held_out import encoder_windows
        from patch_compile.verify.outputs import compare_encoder
        from patch_compile.verify.runnable import runnable_pair

        answers: Answers = {}
        if self.request.asks(Question.COMPILED) or self.request.asks(Question.PRUNED):
            with self.progress.stage("dense reference"):
                files = runnable_pair(self.job, self.out.path / ONNX, self.scratch)
            pruned = self.out.path / MODEL
            answers |= self._of_proof(*compare_encoder(self.job, *files, pruned, self.scratch, self.progress))
        if self.request.asks(Question.WHERE):
            windows, _ = encoder_windows(self.recipe, load_tokenizer(self.recipe.model), self.progress)
            answers |= self._compared(windows, {})
        return answers | {"built": self._built_elsewhere()}

    def _compared(self, windows: NDArray[np.int64], text: dict[str, Any]) -> Answers:
        """Pruned how much, where it went, and the baselines."""
        from patch_compile.verify.pruned import compare_checkpoints, describe_predictions, describe_where

        job, request = self.job, self.request
        pruned = self.out.path / MODEL
        found, changes = compare_checkpoints(
            job, self.masks, pruned, windows, request, self.scratch, self.progress
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
        from patch_compile.verify.baselines import beside_baselines

        masks, learning = self.masks, self.recipe.learning()
        if self.recipe.ratio is None:  # masks, or a speed, decided
            learning = learning.model_copy(update={"ratio": masks.ratio})
        report = self.out.read_json(REPORT) or {}
        seconds = report.get("seconds", {}).get("masks")  # None where masks of an earlier run were kept
        result = {
            "name": masks.method,
            "ratio": masks.ratio,
            "perplexity": perplexity["pruned"],
            "seconds": seconds,
            "deployable": True,
        }
        place = (windows, self.scratch, self.progress)
        return beside_baselines(
            self.job, learning, result, perplexity["dense"], self.request.baselines, *place
        )

    def _windows(self) -> tuple[NDArray[np.int64], dict[str, Any]]:
        from patch_compile.sources.checkpoint.held_out import describe_windows, evaluation_windows

        windows, text = evaluation_windows(self.recipe, load_tokenizer(self.recipe.model), self.progress)
        return windows, describe_windows(windows, text)

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
            "against": agreement.get("against", "pruned ONNX"),
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
        """Only decoders have a runtime here that feeds an engine."""
        if not self.request.asks(Question.BUILT):
            return None
        why = "engines of encoders and of ONNX files are compared with Polygraphy: samples/trtexec.md"
        return {"ran": False, "why": why}


def _check_same_model(fingerprint: str, out: OutFolder) -> None:
    known = out.manifest["model"]
    if fingerprint != known["sha256"]:
        raise PatchCompileError(
            f"{known['path']} is not the model that {out.path} was built from",
            "its weights or its configuration have another sha256",
            "put the model back as it was, or build again",
        )


def _check_long_enough(windows: NDArray[np.int64], longest: int) -> None:
    if windows.shape[1] < longest:
        raise PatchCompileError(
            f"a window of {windows.shape[1]} tokens is too short for a prefill of {longest - 1} and a step behind it",
            "inputs are taken from the evaluation text",
            f"give --eval-length {longest} or more, or shorter --lengths",
        )


def _refuse_what_it_lacks(request: VerifyRequest, kind: str) -> None:
    """Flags that only builds of decoders have something for."""
    asked = {
        "--sensitivity": request.sensitivity,
        "--baselines": bool(request.baselines),
        "--tasks": bool(request.tasks),
        "--prompt": bool(request.prompt),
    }
    for flag, given in asked.items():
        if given:
            raise PatchCompileError(
                f"{flag} does not go with {kind}", "it predicts no next token", f"drop {flag}"
            )
