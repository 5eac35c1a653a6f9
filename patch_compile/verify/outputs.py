"""The proof of an encoder's build: it predicts no next tokens, so its hidden states are compared, not perplexity."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from masklearn.checkpoint.pretrained import load_tokenizer
from patch_compile.errors import AccuracyError
from patch_compile.onnx_io.compare import Answers, answer, compare_answers
from patch_compile.progress import Progress
from patch_compile.sources.checkpoint.held_out import encoder_windows
from patch_compile.sources.checkpoint.source import Job
from patch_compile.verify.agreement import layers_of, rounding_tolerance
from patch_compile.verify.study import Feed

__all__ = ["compare_encoder", "prove_encoder"]

_ROWS = 2  # windows in a feed; the last of them is padded from its middle on


def prove_encoder(
    job: Job, dense: Path, hybrid: Path, pruned: Path, scratch: Path, progress: Progress
) -> dict[str, Any]:
    """`compare_encoder`; raises AccuracyError when the hybrid was not compiled right."""
    proof, fault = compare_encoder(job, dense, hybrid, pruned, scratch, progress)
    if fault:
        raise fault
    return proof


def compare_encoder(
    job: Job, dense: Path, hybrid: Path, pruned: Path, scratch: Path, progress: Progress
) -> tuple[dict[str, Any], AccuracyError | None]:
    """Hybrid, pruned and dense encoder on held-out text: the parts of report.json that answer what they can, and what is
    wrong with the hybrid where it was not compiled right.

    dense, hybrid: as ONNX Runtime runs them; pruned: the checkpoint that transformers runs.
    """
    tokenizer = load_tokenizer(job.recipe.model)
    windows, text = encoder_windows(job.recipe, tokenizer, progress)
    feeds = list(_feeds(windows, job.checkpoint.config.get("pad_token_id") or 0, _input_names(hybrid)))
    answers = {}
    for name, path in (("hybrid", hybrid), ("dense", dense)):
        with progress.stage(f"{name} on ONNX Runtime"):
            answers[name] = answer(path, feeds, scratch / name)
    with progress.stage("pruned checkpoint on transformers"):
        reference = _run_checkpoint(
            pruned, job.recipe.dtype, feeds, answers["hybrid"].outputs, scratch / "pruned"
        )
    agreement, fault = _judge(answers["hybrid"], reference, job)
    lost = compare_answers(answers["hybrid"], answers["dense"])
    words = f"{text['name']}, {windows.shape[0]} windows × {windows.shape[1]} tokens, {job.recipe.dtype}"
    proof = {
        "text": {"eval": text},
        "inputs": {"words": words, "compared": len(feeds)},
        "agreement": agreement,
        "difference": {"outputs": [vars(one) for one in lost], "relative": max(one.relative for one in lost)},
    }
    return proof, fault


def _input_names(path: Path) -> list[str]:
    from patch_compile.onnx_io.graph_inputs import read_inputs

    return [given.name for given in read_inputs(path)]


def _feeds(windows: NDArray[np.int64], padding: int, names: list[str]) -> Iterator[Feed]:
    """Batches of windows `[rows, length]` under the names that the graph takes."""
    for first in range(0, len(windows), _ROWS):
        ids = windows[first : first + _ROWS].copy()
        mask = np.ones_like(ids)
        hidden = (len(ids) - 1, slice(max(1, ids.shape[1] // 2), None))
        ids[hidden], mask[hidden] = padding, 0
        given = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
        yield {name: given[name] for name in names}


def _run_checkpoint(
    directory: Path, dtype: str, feeds: list[Feed], outputs: tuple[str, ...], folder: Path
) -> Answers:
    """What transformers says: weights rounded to `dtype`, arithmetic in fp32."""
    import torch

    from masklearn.checkpoint.models import load_model

    model = load_model(directory, dtype=getattr(torch, dtype)).float()
    folder.mkdir(parents=True, exist_ok=True)
    for run, feed in enumerate(feeds):
        with torch.no_grad():
            made = model(**{name: torch.from_numpy(np.asarray(value)) for name, value in feed.items()})
        for place, name in enumerate(outputs):
            np.save(folder / f"{place}.{run}.npy", made[name].numpy())
    return Answers(folder, outputs, len(feeds))


def _judge(hybrid: Answers, reference: Answers, job: Job) -> tuple[dict[str, Any], AccuracyError | None]:
    tolerance, why = rounding_tolerance(job.recipe.dtype, layers_of(job.recipe.model))
    worst = max(compare_answers(hybrid, reference), key=lambda one: one.largest)
    about = {"error": worst.largest, "tolerance": tolerance, "why": why, "against": "pruned checkpoint"}
    if worst.largest <= tolerance:
        return about, None
    return about, AccuracyError(
        f"{worst.output!r} of the hybrid ONNX differs from the pruned checkpoint's by {worst.largest:.2e} of its "
        "largest value",
        f"rounding explains {tolerance:.2e}: {why}",
        "this is a fault of the compiler: please report it with the model's config.json and the recipe",
    )
