"""Inner loops of packing slabs of n:16, compiled by numba: a panel of a linear to its slabs, and back.

`masklearn.masks.kinds.families` says which 16 weights of a row are a group. A lane (4 g + t) of a row block of 16 rows
holds group t of the rows g ("low") and g + 8 ("high"): n values of each, in the order of their positions, and two codes.
PR = panel_rows; planes lie one after another, so that each load of a lane is aligned and lanes load side by side:

    values  the first 8         [row half: 2][row block: PR/16][lane: 32][8]
            the others, if any  [row block: PR/16][lane: 32][row half: 2][n - 8]
    masks   [row block: PR/16][lane: 32]        low half word: code of the low row, high: of the high row
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from masklearn.base.compiled import compiled, inlined
from masklearn.masks.kinds.table import FAMILIES
from patch_compile.packing.slab_kinds import SLAB_K

GROUP = FAMILIES["n:16"].group
_GROUPS = SLAB_K // GROUP  # groups in a row of a slab
_FIRST = 8  # values of a group that lie in planes of their own


@compiled
def masked_of_sixteen(weight: NDArray[np.uint16], codes: NDArray[np.uint16]) -> NDArray[np.uint16]:
    """Returns rows of a weight `[rows, K]` with 0 where n:16 prunes; codes: `[rows, K/16]`."""
    masked = np.empty_like(weight)
    for row in range(weight.shape[0]):
        for slab in range(codes.shape[1] // _GROUPS):
            for position in range(GROUP):
                for t in range(_GROUPS):
                    column = slab * SLAB_K + _column(t, position)
                    kept = np.uint32(codes[row, slab * _GROUPS + t]) >> np.uint32(position) & np.uint32(1)
                    masked[row, column] = weight[row, column] * np.uint16(kept)
    return masked


@compiled
def pack_panel_of_sixteen(
    weight: NDArray[np.uint16],
    codes: NDArray[np.uint16],
    chosen: NDArray[np.bool_],
    slots: NDArray[np.int64],
    values: NDArray[np.uint16],
    masks: NDArray[np.uint32],
) -> None:
    """Write the slabs of one kind of a panel. Rows beyond N become zero weights.

    weight: the panel's rows, `[rows, K]`; codes: `[rows, K/16]`; chosen: True for each slab along K of this kind; slots:
    row of each slab in `values` `[slabs, PR·4·n]` and `masks` `[slabs, PR·2]`, which must be zero before.
    """
    panel_rows, rows = masks.shape[1] // 2, codes.shape[0]
    kept = values.shape[1] // (4 * panel_rows)
    spare = (1 << kept) - 1  # a group beyond N keeps its first positions, which hold zeros
    for slab in range(len(chosen)):
        if not chosen[slab]:
            continue
        slot = slots[slab]
        for row in range(panel_rows):
            for t in range(_GROUPS):
                code = np.uint32(codes[row, slab * _GROUPS + t]) if row < rows else np.uint32(spare)
                masks[slot, _lane(row, t)] |= code << np.uint32(row % 16 // 8 * 16)
                if row < rows:
                    rank = 0
                    for position in range(GROUP):
                        if code >> np.uint32(position) & np.uint32(1):
                            at = _value(row, t, rank, kept, panel_rows)
                            values[slot, at] = weight[row, slab * SLAB_K + _column(t, position)]
                            rank += 1


@compiled
def unpack_panel_of_sixteen(
    weight: NDArray[np.uint16],
    chosen: NDArray[np.bool_],
    slots: NDArray[np.int64],
    values: NDArray[np.uint16],
    masks: NDArray[np.uint32],
) -> bool:
    """Fill the chosen slabs of `weight` (see `pack_panel_of_sixteen`). Returns False if a code does not keep n."""
    panel_rows, rows = masks.shape[1] // 2, weight.shape[0]
    kept = values.shape[1] // (4 * panel_rows)
    for slab in range(len(chosen)):
        if not chosen[slab]:
            continue
        slot = slots[slab]
        for row in range(rows):
            for t in range(_GROUPS):
                code = masks[slot, _lane(row, t)] >> np.uint32(row % 16 // 8 * 16) & np.uint32(0xFFFF)
                rank = 0
                for position in range(GROUP):
                    column = slab * SLAB_K + _column(t, position)
                    if not code >> np.uint32(position) & np.uint32(1):
                        weight[row, column] = 0
                    elif rank == kept:
                        return False
                    else:
                        weight[row, column] = values[slot, _value(row, t, rank, kept, panel_rows)]
                        rank += 1
                if rank != kept:
                    return False
    return True


@inlined
def _column(t: Any, position: Any) -> Any:
    """Returns the column in the slab of a position of group t."""
    return position // 4 * 16 + position % 4 // 2 * 8 + t * 2 + position % 2


@inlined
def _lane(row: Any, t: Any) -> Any:
    return row // 16 * 32 + row % 8 * 4 + t


@inlined
def _value(row: Any, t: Any, rank: Any, kept: Any, panel_rows: Any) -> Any:
    """Returns the offset in a slab of the kept value with this rank of group t of a row."""
    lanes, lane, half = panel_rows * 2, _lane(row, t), row % 16 // 8
    if rank < _FIRST:
        return (half * lanes + lane) * _FIRST + rank
    return 2 * _FIRST * lanes + (lane * 2 + half) * (kept - _FIRST) + rank - _FIRST
