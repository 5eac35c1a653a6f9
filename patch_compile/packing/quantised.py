"""Packs quantised weights and their scales into the tensors of PatchLinear, and unpacks them exactly.

A weight of the graph's 16-bit type T is T(q·s): an integer q times its scale s, rounded once. Slabs hold q; the scales of
int4 lie in the slabs, the scales of rows are a separate tensor, `[panels · PR]` in the order of packed rows. `integers`
describes the slabs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from masklearn.masks.linear_mask import LinearMask
from masklearn.model.prune import masked_weight
from masklearn.quant.grid import Grid
from masklearn.quant.table import WeightType
from patch_compile.packing.format import (
    KERNEL_ROWS,
    OtherSlabs,
    PackedLinear,
    Panel,
    for_each_panel,
    pack_together,
    rows_of_panel,
    unpack,
)
from patch_compile.packing.index import Place
from patch_compile.packing.slab_kinds import kernels_have_wide_panels, value_words


@dataclass(frozen=True)
class Quantised:
    """A linear on its grid. integers: int16 `[N, K]`, 0 where the mask prunes."""

    integers: NDArray[np.int16]
    mask: LinearMask
    grid: Grid

    @classmethod
    def of(cls, weight: NDArray[Any], mask: LinearMask, grid: Grid) -> Quantised:
        """Find the integers of `W∘M`; weight: `[N, K]` of any floating-point type.

        Raises ValueError if the scales do not fit the weight, or a weight is not on the grid.
        """
        grid.check_shape((weight.shape[0], weight.shape[1]))
        if weight.dtype.itemsize == 2:
            integers, off = _find_integers(weight, mask, grid)
            if not off:
                return cls(integers, mask, grid)
        return cls(grid.integers(masked_weight(weight, mask.keep())).astype(np.int16), mask, grid)

    def values(self, dtype: np.dtype[Any]) -> NDArray[Any]:
        """Returns the weights `T(q·s)`, `[N, K]`."""
        return self.grid.values(self.integers.astype(np.int8), dtype)


def pack_quantised(
    linears: Sequence[Quantised],
    places: Sequence[Place],
    dtype: np.dtype[Any],
    panel_rows: int = KERNEL_ROWS,
) -> PackedLinear:
    """Pack linears of equal K and weight type as a single linear `[all panels · panel_rows, K]`.

    places: of each linear; dtype: the graph's 16-bit type.

    Raises ValueError if the linears differ in K or in their weight type, and for panels or kinds of slabs that the
    kernels do not have.
    """
    weights = linears[0].grid.type
    if other := next((one.grid.type for one in linears if one.grid.type is not weights), None):
        raise ValueError(f"linears of {weights} and {other} can't be packed together")
    parts = [(one.integers.view(np.uint16), one.mask) for one in linears]
    wide = pack_together(parts, panel_rows, places, weights)
    if panel_rows != KERNEL_ROWS and not kernels_have_wide_panels(wide.kinds, weights):
        raise ValueError(f"{weights} weights have no panels of {panel_rows} rows")
    rows = _scales_by_panel(linears, places, panel_rows, len(wide.places()[0]))
    if weights.span is None:
        return _narrowed(wide, weights, rows.reshape(-1), None)
    return _narrowed(wide, weights, None, rows.astype(dtype).view(np.uint16))


def unpack_quantised(
    packed: PackedLinear, dtype: np.dtype[Any]
) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Returns integers `[N, K]` and scales, as in a `Grid`: the exact inverse of `pack_quantised`.

    dtype: the graph's 16-bit type. Raises ValueError for an invalid index or metadata.
    """
    integers = unpack(as_sixteen_bits(packed)).view(np.int16).astype(np.int8)
    rows = _stored_scales(packed, dtype)
    scales = rows.transpose(0, 2, 1).reshape(-1, rows.shape[1])[: packed.shape[0]]
    return integers, scales[:, 0] if packed.scales is not None else scales


def as_sixteen_bits(packed: PackedLinear) -> PackedLinear:
    """Returns the packed linear of the integers as 16-bit values, without scales."""
    from patch_compile.packing.integers import metadata_of_k32, widened

    assert packed.weights is not None
    weights, rows = packed.weights, packed.panel_rows
    dense, sparse, *others = (
        widened(stored[:, : value_words(kind, weights, rows)], kind, weights, rows)
        for kind, stored in _slabs(packed)
    )
    return replace(
        packed,
        dense=dense,
        sparse=sparse,
        meta=packed.meta if weights.widened else metadata_of_k32(packed.meta),
        others=tuple(replace(one, values=values) for one, values in zip(packed.others, others, strict=True)),
        weights=None,
        scales=None,
    )


def count_wrong_integers(packed: PackedLinear, values: NDArray[Any], mask: LinearMask, place: Place) -> int:
    """Returns the number of weights of a linear whose decoded T(q·s) differs from the masked weight.

    values: the weight in T, `[N, K]`, masked or not; place: where `packed` holds the linear. Zeros of both signs are
    equal. Raises ValueError for an invalid index or metadata.
    """
    from patch_compile.packing.grid_values import count_other_values

    wide, dtype = as_sixteen_bits(packed), values.dtype
    numbers, slots = wide.places()
    scales = _stored_scales(packed, dtype)
    wrong = np.zeros(len(numbers), np.int64)

    def count_one(part: Panel, panel: int) -> None:
        decoded = rows_of_panel(wide, numbers[panel], slots[panel], part, place)
        own = scales[panel].T[place.inside(np.arange(len(decoded)))]
        wrong[panel] = count_other_values(decoded.view(np.int16), own, part.weight, part.codes, dtype)

    for_each_panel(values.view(np.uint16), mask, packed.panel_rows, place, count_one)
    return int(wrong.sum())


def _find_integers(weight: NDArray[Any], mask: LinearMask, grid: Grid) -> tuple[NDArray[np.int16], int]:
    """Returns the integers of a 16-bit weight, and how many weights are not on the grid."""
    from patch_compile.packing.grid_values import find_integers

    found = np.empty(weight.shape, np.int16)
    scales = grid.scales.reshape(len(weight), -1)
    panels = np.arange(-(-len(weight) // KERNEL_ROWS))
    off = np.zeros(len(panels), np.int64)

    def find_one(part: Panel, panel: int) -> None:
        rows = slice(panel * KERNEL_ROWS, (panel + 1) * KERNEL_ROWS)
        off[panel] = find_integers(part.weight, part.codes, scales[rows], weight.dtype, found[rows])

    for_each_panel(weight.view(np.uint16), mask, KERNEL_ROWS, Place(panels), find_one)
    return found, int(off.sum())


def _scales_by_panel(
    linears: Sequence[Quantised], places: Sequence[Place], panel_rows: int, panels: int
) -> NDArray[np.float32]:
    """Returns the scales of packed rows, `[panels, PR]`, or `[panels, PR, slabs]` for int4; 0 beyond N."""
    whole = np.zeros((panels * panel_rows, *linears[0].grid.scales.shape[1:]), np.float32)
    for one, place in zip(linears, places, strict=True):
        whole[place.packed(len(one.grid.scales), panel_rows)] = one.grid.scales
    return whole.reshape(panels, panel_rows, *whole.shape[1:])


def _stored_scales(packed: PackedLinear, dtype: np.dtype[Any]) -> NDArray[np.float32]:
    """Returns the scales in stored order, `[panels, scales of a row, PR]`."""
    from patch_compile.packing.integers import scales_of_words

    assert packed.weights is not None
    rows = packed.panel_rows
    if packed.scales is not None:
        return packed.scales.reshape(-1, 1, rows)
    numbers, slots = packed.places()
    found = np.zeros((*numbers.shape, rows), np.float32)
    for number, (kind, stored) in enumerate(_slabs(packed)):
        words = stored[:, value_words(kind, packed.weights, rows) :].view(np.uint32)
        bits = scales_of_words(words).view(dtype)
        found[numbers == number] = bits[slots[numbers == number]].astype(np.float32)
    return found


def _slabs(packed: PackedLinear) -> list[tuple[Any, NDArray[Any]]]:
    stored = (packed.dense, packed.sparse, *(one.values for one in packed.others))
    return list(zip(packed.kinds, stored, strict=True))


def _narrowed(
    wide: PackedLinear,
    weights: WeightType,
    scales: NDArray[np.float32] | None,
    bits: NDArray[np.uint16] | None,
) -> PackedLinear:
    """Returns the packed linear of integers, from the packed linear that holds them as 16-bit values.

    scales: the scales of rows; bits: the bits of int4 scales, `[panels, PR, slabs]`.
    """
    from patch_compile.packing.integers import metadata_of_k64, narrowed, scale_words

    numbers = wide.places()[0]
    words = np.zeros((*numbers.shape, 0), np.uint32) if bits is None else scale_words(bits)
    dense, sparse, *others = (
        narrowed(stored, kind, weights, wide.panel_rows, words[numbers == number])
        for number, (kind, stored) in enumerate(_slabs(wide))
    )
    return replace(
        wide,
        dense=dense,
        sparse=sparse,
        meta=wide.meta if weights.widened else metadata_of_k64(wide.meta),
        others=tuple(
            OtherSlabs(one.kind, values, one.codes) for one, values in zip(wide.others, others, strict=True)
        ),
        weights=weights,
        scales=scales,
    )
