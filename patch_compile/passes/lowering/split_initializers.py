"""Constants of a split linear: parts of the masked weight, cut when they are written and not before."""

from __future__ import annotations

from functools import partial
from typing import Any, Literal, NamedTuple

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from masklearn.masks.linear_mask import LinearMask
from masklearn.model.prune import masked_weight
from patch_compile.onnx_io.write import lazy_initializer
from patch_compile.packing.checks import check_two_four
from patch_compile.passes.lowering.packed_initializers import ReadTensor
from patch_compile.planning.split import Split

__all__ = ["SplitPart", "split_initializers"]


class SplitPart(NamedTuple):
    """One product of a split linear: the number of its group, and its kind."""

    group: int
    kind: Literal["dense", "sparse"]

    def __str__(self) -> str:
        """Returns its form in the names of nodes and weights: `0/sparse`."""
        return f"{self.group}/{self.kind}"


def split_initializers(
    linear: str, split: Split, mask: LinearMask, read: ReadTensor, dtype: ir.DataType
) -> dict[SplitPart, ir.Value]:
    """Returns the weight of each part that is not empty: dense `[rows, K_d]`, 2:4 `[rows, K_s, 1, 1]`.

    The linear's weight is read and masked when the first part is written, and freed after the last. The written values
    of 2:4 parts are checked for 2:4 along K.
    """
    cuts = {part: cut for part, cut in _cuts(split).items() if len(cut[1])}
    once = _MaskedOnce(linear, mask, read, len(cuts))
    made = {}
    for part, (rows, k) in cuts.items():
        name = f"{linear}.split.{part}"
        shape = (len(rows), len(k), *(1, 1) * (part.kind == "sparse"))
        made[part] = lazy_initializer(name, shape, dtype, partial(_make, once, name, part, rows, k))
    return made


def _cuts(split: Split) -> dict[SplitPart, tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Returns rows and k of each part."""
    cuts = {}
    for number, group in enumerate(split.groups):
        rows = split.rows(group)
        cuts[SplitPart(number, "dense")] = rows, split.dense_k(group)
        cuts[SplitPart(number, "sparse")] = rows, split.sparse_k(group)
    return cuts


def _make(
    once: _MaskedOnce,
    name: str,
    part: SplitPart,
    rows: NDArray[np.int64],
    k: NDArray[np.int64],
) -> NDArray[Any]:
    values = once.take(part)[np.ix_(rows, k)]
    if part.kind == "sparse":
        check_two_four(name, values)
        values = values[:, :, None, None]
    return values


class _MaskedOnce:
    """Reads and masks the weight of a linear when its first part is written, and frees it after the last."""

    def __init__(self, linear: str, mask: LinearMask, read: ReadTensor, parts: int) -> None:
        self._linear, self._mask, self._read, self._parts = linear, mask, read, parts
        self._weight: NDArray[Any] | None = None
        self._taken: set[SplitPart] = set()

    def take(self, part: SplitPart) -> NDArray[Any]:
        """Returns `W∘M: [N, K]`."""
        weight = self._weight
        if weight is None:
            weight = self._weight = masked_weight(self._read(f"{self._linear}.weight"), self._mask.keep())
        self._taken.add(part)
        if len(self._taken) == self._parts:
            self._weight, self._taken = None, set()
        return weight
