"""Puts the types of weights into words, and how much of a loss is theirs."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator

from masklearn import Baseline, BesideBaselines
from masklearn.masks.maskset import MaskSet
from masklearn.quant.table import weight_type
from patch_compile.artifacts.plan import LinearRow

__all__ = ["compiled_types", "learned_types", "loss_lines", "types_line", "types_words"]

SIXTEEN = "16-bit"


def learned_types(masks: MaskSet) -> Counter[str]:
    """Returns the numbers of linears with each type of weights; empty if none is quantised."""
    if not masks.grids:
        return Counter()
    return Counter(str(masks.grids[name].type) if name in masks.grids else SIXTEEN for name in masks)


def compiled_types(linears: Iterable[LinearRow]) -> Counter[str]:
    """Returns the numbers of linears with each type of weights, as compiled; empty if none is quantised."""
    counts = Counter(row.weights if weight_type(row.weights).quantised else SIXTEEN for row in linears)
    return counts if set(counts) - {SIXTEEN} else Counter()


def types_words(counts: Counter[str]) -> str:
    """Returns the types with the numbers of their linears, such as `168 int8, 42 int4`; one type alone without a number."""
    if len(counts) == 1:
        return next(iter(counts))  # all of them
    return ", ".join(f"{count} {name}" for name, count in counts.most_common())


def types_line(counts: Counter[str], taken: float | None = None) -> str:
    """Returns the types of the linears' weights in words, empty if none is quantised. taken: bytes of a packed weight."""
    if not counts:
        return ""
    size = (
        ""
        if taken is None
        else f"; a packed weight takes {taken:.3f} bytes on average, 2 as a dense one of 16 bits"
    )
    return f"weights: {types_words(counts)}{size}"


def loss_lines(found: BesideBaselines) -> Iterator[str]:
    """Yield how much of the loss against the dense model is rounding's and how much pruning's, if dense weights of the same
    types were measured."""
    values = {row.name: row.perplexity for row in found.rows[1:]}
    dense, rounded, result = values.get(Baseline.DENSE), values.get(Baseline.ROUNDED), found.result.perplexity
    if dense is None or rounded is None or not all(map(math.isfinite, (dense, rounded, result))):
        return
    yield (
        f"loss: dense {dense:.2f}; rounding its weights alone {rounded - dense:+.2f}, to {rounded:.2f}; pruning on top "
        f"{result - rounded:+.2f}, to {result:.2f}"
    )
