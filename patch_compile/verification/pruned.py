"""Measures the effect of pruning: compares the pruned with the dense checkpoint, block by block, in fp32."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from masklearn import Comparison, LogitErrors, Predictions, compare_models, folded, reordered
from masklearn.masks.maskset import MaskSet
from masklearn.masks.name_globs import depth_of, kind_of, short_kinds
from masklearn.model.checkpoint import Checkpoint
from masklearn.model.store import WeightStore
from patch_compile.artifacts.proof import TextWindows
from patch_compile.artifacts.verify import (
    BlockError,
    ErrorAttribution,
    LinearError,
    LogitErrorStats,
    PrunedPerplexity,
    PrunedTokens,
)
from patch_compile.progress import Progress
from patch_compile.sources.base import TextSource


def compare_checkpoints(
    source: TextSource,
    masks: MaskSet,
    pruned: Path,
    windows: NDArray[np.int64],
    device: str | None,
    scratch: Path,
    progress: Progress,
) -> Comparison:
    """Compare the two models on `windows`."""
    dense, other = source.checkpoint, Checkpoint.open(pruned)
    if masks.folds:
        shifted = masks.record.smoothed is not None and masks.record.smoothed.shifted
        dense = folded(dense, masks.folds, WeightStore(scratch / "folded"), shifted=shifted)
    if masks.orders:
        dense = reordered(dense, masks.orders, WeightStore(scratch / "reordered", below=dense.new))
    with progress.stage("pruned against dense") as update:
        return compare_models(dense, other, list(masks), windows, device, update, scratch)


def predictions_answer(predictions: Predictions, logits: LogitErrors, on: TextWindows) -> PrunedTokens:
    """Returns the effect of pruning on predictions. on: the windows that were compared."""
    dense, pruned = predictions.perplexity
    return PrunedTokens(
        perplexity=PrunedPerplexity(dense=dense, pruned=pruned),
        kl=predictions.kl / predictions.tokens,
        top1_agreement=predictions.same_top1 / predictions.tokens,
        logits=LogitErrorStats(**logits.stats()),
        tokens=predictions.tokens,
        on=on,
    )


def where_answer(comparison: Comparison) -> ErrorAttribution:
    """Returns the errors of linears and blocks in the order of the model."""
    relative = {name: _relative(*pair) for name, pair in comparison.linears.items()}
    total = sum(error * error for error in relative.values()) or 1.0
    short = short_kinds(dict.fromkeys(map(kind_of, relative)))
    linears = (
        LinearError(
            name=name,
            block=depth_of(name),
            kind=short[kind_of(name)],
            error=error,
            share=error * error / total,
            overflow=comparison.overflows.get(name),
        )
        for name, error in relative.items()
    )
    blocks = (BlockError(block=number, error=error) for number, error in enumerate(comparison.blocks))
    return ErrorAttribution(linears=tuple(linears), blocks=tuple(blocks))


def _relative(error: float, energy: float) -> float:
    """Returns the relative error; 0 for an expert that no token reached."""
    return math.sqrt(error / energy) if energy else 0.0
