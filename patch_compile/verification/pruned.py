"""Measures the effect of pruning: compares the pruned with the dense checkpoint, block by block, in fp32."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from masklearn import Comparison, LogitErrors, Predictions, compare_models, folded, reordered, sensitivity
from masklearn.masks.maskset import MaskSet
from masklearn.masks.name_globs import depth_of, kind_of, short_kinds
from masklearn.model.checkpoint import Checkpoint
from masklearn.model.store import WeightStore
from patch_compile.artifacts.proof import TextWindows
from patch_compile.artifacts.verify_schema import (
    BlockError,
    ErrorAttribution,
    LinearError,
    LogitErrorStats,
    PrunedPerplexity,
    PrunedTokens,
)
from patch_compile.progress import Progress
from patch_compile.sources.base import Source
from patch_compile.verification.request import VerifyRequest


@dataclass(frozen=True)
class Changes:
    """Changes of the loss in nats per token.

    by_linear: change with only this linear pruned, and with only this linear dense again; tokens: number of tokens they
    are measured on.
    """

    by_linear: Mapping[str, tuple[float, float]]
    tokens: int


def compare_checkpoints(
    source: Source,
    masks: MaskSet,
    pruned: Path,
    windows: NDArray[np.int64],
    request: VerifyRequest,
    scratch: Path,
    progress: Progress,
) -> tuple[Comparison, Changes | None]:
    """Compare the two models on `windows`. With `--sensitivity` also measure the loss for each linear with only this
    linear pruned, and with only this linear dense again."""
    dense, other = source.checkpoint, Checkpoint.open(pruned)
    if masks.folds:
        shifted = masks.record.smoothed is not None and masks.record.smoothed.shifted
        dense = folded(dense, masks.folds, WeightStore(scratch / "folded"), shifted=shifted)
    if masks.orders:
        dense = reordered(dense, masks.orders, WeightStore(scratch / "reordered", below=dense.new))
    with progress.stage("pruned against dense") as update:
        found = compare_models(dense, other, list(masks), windows, request.device, update, scratch)
    if not request.sensitivity:
        return found, None
    part = _beginning(windows, request.sensitivity_tokens)
    with progress.stage("each linear pruned alone") as update:
        alone = sensitivity(dense, other, list(masks), part, request.device, update, scratch)
    with progress.stage("each linear restored alone") as update:
        restored = sensitivity(other, dense, list(masks), part, request.device, update, scratch)
    return found, Changes({name: (alone[name], restored[name]) for name in masks}, part.size)


def predictions_answer(found: Predictions, logits: LogitErrors, on: TextWindows) -> PrunedTokens:
    """Returns the effect of pruning on predictions. on: the windows that were compared."""
    dense, pruned = found.perplexity
    return PrunedTokens(
        perplexity=PrunedPerplexity(dense=dense, pruned=pruned),
        kl=found.kl / found.tokens,
        top1_agreement=found.same_top1 / found.tokens,
        logits=LogitErrorStats(**logits.stats()),
        tokens=found.tokens,
        on=on,
    )


def where_answer(found: Comparison, changes: Changes | None) -> ErrorAttribution:
    """Returns the errors of linears and blocks in the order of the model."""
    relative = {name: _relative(*pair) for name, pair in found.linears.items()}
    total = sum(error * error for error in relative.values()) or 1.0
    short = short_kinds(dict.fromkeys(map(kind_of, relative)))
    linears = []
    for name, error in relative.items():
        alone, restored = changes.by_linear[name] if changes else (None, None)
        linears.append(
            LinearError(
                name=name,
                block=depth_of(name),
                kind=short[kind_of(name)],
                error=error,
                share=error * error / total,
                alone=alone,
                restored=restored,
            )
        )
    blocks = (BlockError(block=number, error=error) for number, error in enumerate(found.blocks))
    return ErrorAttribution(
        linears=tuple(linears), blocks=tuple(blocks), tokens=changes.tokens if changes else None
    )


def _relative(error: float, energy: float) -> float:
    """Returns the relative error; 0 for an expert that no token reached."""
    return math.sqrt(error / energy) if energy else 0.0


def _beginning(windows: NDArray[np.int64], tokens: int) -> NDArray[np.int64]:
    """Returns as many whole windows as `tokens` fill, or the beginning of the first window."""
    length = windows.shape[1]
    return windows[: tokens // length] if tokens >= length else windows[:1, :tokens]
