"""The proof of a build: compiled right, pruned how much, and what the two models say."""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path
from typing import Any

from masklearn.checkpoint.architectures import architecture_of
from masklearn.checkpoint.pretrained import load_tokenizer
from masklearn.quality.predictions import Predictions
from patch_compile.progress import Progress
from patch_compile.sources.checkpoint.held_out import evaluation_windows
from patch_compile.sources.checkpoint.source import Job
from patch_compile.verify.agreement import judge_agreement, run_checkpoint
from patch_compile.verify.all_logits import with_all_logits
from patch_compile.verify.outputs import prove_encoder
from patch_compile.verify.quality import compare_logits
from patch_compile.verify.runnable import runnable_pair
from patch_compile.verify.study import Questions, run_study

__all__ = ["prove"]

_PROBE_WINDOWS, _PROBE_TOKENS = 2, 96
_SENTENCE_TOKENS = 40


def prove(job: Job, hybrid_path: Path, pruned: Path, scratch: Path, progress: Progress) -> dict[str, Any]:
    """Compare hybrid, pruned and dense model; the parts of report.json that answer the three questions.

    The dense ONNX and logits are written to `scratch` and removed. Raises AccuracyError when the hybrid was not
    compiled right.
    """
    if architecture_of(job.checkpoint).encoder:
        with progress.stage("dense reference"):
            files = runnable_pair(job, hybrid_path, scratch)
        proof = prove_encoder(job, *files, pruned, scratch, progress)
        shutil.rmtree(scratch)
        return proof
    r = job.recipe
    tokenizer = load_tokenizer(r.model)
    windows, text = evaluation_windows(job.recipe, tokenizer, progress)
    questions = Questions(
        windows,
        windows[:_PROBE_WINDOWS, :_PROBE_TOKENS],
        tokenizer(r.prompt)["input_ids"],
        _SENTENCE_TOKENS,
        partial(_ended, tokenizer),
    )
    with with_all_logits(hybrid_path) as full:
        with progress.stage("dense reference"):
            dense_path, runnable = runnable_pair(job, full, scratch)
        with progress.stage("hybrid on ONNX Runtime") as update:
            hybrid = run_study("hybrid", runnable, questions, scratch, progress=update)
    with progress.stage("dense on ONNX Runtime") as update:
        dense = run_study("dense", dense_path, questions, scratch, hybrid.feeds, update)
    with progress.stage("pruned checkpoint on transformers"):
        checkpoint = run_checkpoint(pruned, r.dtype, hybrid.feeds)
    agreement = judge_agreement(hybrid, dense, checkpoint, r.dtype)
    quality = compare_logits(dense.logits, hybrid.logits, windows)
    for file in scratch.iterdir():
        file.unlink()
    return {
        "text": {"eval": text},
        "perplexity": _perplexity(quality, text["name"], windows.shape, r.dtype),
        "agreement": vars(agreement),
        "difference": {
            "kl": quality.kl / quality.tokens,
            "top1_agreement": quality.same_top1 / quality.tokens,
            "largest_logit_error": agreement.dense_error,
        },
        "generated": {
            "prompt": r.prompt,
            "dense": _text(tokenizer, dense.continuation),
            "hybrid": _text(tokenizer, hybrid.continuation),
        },
    }


def _perplexity(quality: Predictions, text: str, shape: tuple[int, ...], dtype: str) -> dict[str, Any]:
    dense, hybrid = quality.perplexity
    how = f"{text}, {shape[0]} windows × {shape[1]} tokens, {dtype}, ONNX Runtime"
    return {"dense": dense, "hybrid": hybrid, "text": how}


def _ended(tokenizer: Any, tokens: list[int]) -> bool:
    """A sentence ends at its full stop, or where the model ends the text."""
    text = tokenizer.decode(tokens)
    return tokens[-1] == tokenizer.eos_token_id or text.rstrip(" ")[-1:] in (".", "!", "?", "\n")


def _text(tokenizer: Any, tokens: list[int]) -> str:
    return str(tokenizer.decode(tokens, skip_special_tokens=True)).rstrip()
