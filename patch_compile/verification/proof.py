"""Proof of a build: agreement of the compiled model, loss of quality by pruning, and a sentence by each model."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from masklearn import Predictions
from patch_compile.artifacts.proof import (
    BuildPerplexity,
    OutputsProof,
    PredictionsDifference,
    ProofText,
    Sentence,
    TextRunner,
    TextWindows,
    TokensProof,
)
from patch_compile.onnx_io.arrays import load_array
from patch_compile.onnx_io.runnable import runnable_onnx
from patch_compile.progress import Progress
from patch_compile.runtime.decoder import check_finite
from patch_compile.sources.base import OutputSource, Source
from patch_compile.verification.agreement import judge_agreement, measured_tolerance, run_pruned
from patch_compile.verification.all_logits import with_all_logits
from patch_compile.verification.choices import with_choices
from patch_compile.verification.outputs import compare_outputs
from patch_compile.verification.run_model import Probes, run_study

__all__ = ["compare_logits", "prove"]

_PROBE_WINDOWS, _PROBE_TOKENS = 2, 96
_SENTENCE_TOKENS = 40


def prove(
    source: Source, hybrid: Path, pruned: Path, packed: Sequence[str], scratch: Path, progress: Progress
) -> TokensProof | OutputsProof:
    """Compare hybrid, pruned and dense model.

    packed: names of the linears that are compiled. The dense ONNX and outputs of the models are written to `scratch` and
    removed. Raises AccuracyError if the hybrid model was not compiled right.
    """
    shutil.rmtree(scratch, ignore_errors=True)  # left by an interrupted run
    scratch.mkdir(parents=True)
    proof: TokensProof | OutputsProof
    if isinstance(source, OutputSource):
        proof, fault = compare_outputs(source, hybrid, pruned, packed, scratch, progress)
        if fault:
            raise fault
    else:
        proof = _prove_next_tokens(source, hybrid, pruned, scratch, progress)
    shutil.rmtree(scratch)
    return proof


def _prove_next_tokens(
    source: Source, hybrid_path: Path, pruned: Path, scratch: Path, progress: Progress
) -> TokensProof:
    r, tokenizer = source.recipe, source.tokenizer
    windows, text = source.evaluation(progress)
    prompt = tokenizer(r.prompt)["input_ids"]
    questions = Probes(
        windows,
        windows[:_PROBE_WINDOWS, :_PROBE_TOKENS],
        prompt,
        _room(source, prompt),
        partial(_ended, tokenizer),
    )
    with progress.stage("dense reference"):
        dense_path = source.dense_onnx(scratch / "dense.onnx", logits="all", runnable=True)
    with (
        with_all_logits(hybrid_path) as full,
        progress.stage("hybrid on ONNX Runtime") as update,
        with_choices(runnable_onnx(full, scratch)) as (graph, choices),
    ):
        hybrid = run_study("hybrid", graph, questions, scratch, progress=update, choices=choices)
    with progress.stage("dense on ONNX Runtime") as update:
        dense = run_study("dense", dense_path, questions, scratch, hybrid.runs.feeds, update)
    with progress.stage("pruned reference"):
        checkpoint = run_pruned(source, pruned, hybrid.runs)
    measure = partial(measured_tolerance, source, pruned, hybrid.runs, checkpoint.logits)
    agreement = judge_agreement(hybrid, dense, checkpoint, r.dtype, measure)
    quality = compare_logits(dense.logits, hybrid.logits, windows)
    perplexity, (windows_read, length) = quality.perplexity, windows.shape
    on = TextWindows(
        name=text.name, windows=windows_read, length=length, dtype=r.dtype, runner=TextRunner.ONNX_RUNTIME
    )
    return TokensProof(
        text=ProofText(eval=text),
        perplexity=BuildPerplexity(dense=perplexity[0], hybrid=perplexity[1], on=on),
        agreement=agreement,
        difference=PredictionsDifference(
            kl=quality.kl / quality.tokens,
            top1_agreement=quality.same_top1 / quality.tokens,
        ),
        generated=Sentence(
            prompt=r.prompt,
            dense=_text(tokenizer, dense.continuation),
            hybrid=_text(tokenizer, hybrid.continuation),
        ),
    )


def _room(source: Source, prompt: list[int]) -> int:
    """Returns the most tokens of the sentence that continues the prompt."""
    positions = source.sequences.positions if source.sequences else None
    return _SENTENCE_TOKENS if positions is None else min(_SENTENCE_TOKENS, positions - len(prompt))


def _ended(tokenizer: Any, tokens: list[int]) -> bool:
    """Returns True at the end of a sentence, or where the model ends the text."""
    text = tokenizer.decode(tokens)
    return tokens[-1] == tokenizer.eos_token_id or text.rstrip(" ")[-1:] in (".", "!", "?", "\n")


def _text(tokenizer: Any, tokens: list[int]) -> str:
    return str(tokenizer.decode(tokens, skip_special_tokens=True)).rstrip()


def compare_logits(dense: list[Path], hybrid: list[Path], windows: NDArray[np.int64]) -> Predictions:
    """Compare the logits of two models. Each has one file `[length, vocabulary]` per window of tokens `[count, length]`.

    Raises LogitsError that names the model if logits are not finite.
    """
    found = Predictions()
    for dense_file, hybrid_file, window in zip(dense, hybrid, windows, strict=True):
        p, q = load_array(dense_file), load_array(hybrid_file)
        check_finite(p, "The dense model")
        check_finite(q, "The hybrid model")
        found.add(torch.from_numpy(p[:-1]), torch.from_numpy(q[:-1]), torch.from_numpy(window[1:]))
    return found
