"""Inner loops of packing slabs of 6:8, compiled by numba: a panel of a linear to its slabs, and back. Only w8a8 has them.

A group of 8 neighbouring columns is three windows of 4, which overlap: columns 0 … 3, 2 … 5 and 4 … 7. Two kept values lie
in each, so that every window is 2:4. The first window holds the two lowest positions that are kept of 0 … 3, the third what
is kept of 6 and 7 and the lowest of 4 and 5 that it has room for, and the middle window the other two. A slab is two
slabs of 2:4, in the order of w8a8 (see `integers`), the second half as wide. With PR = panel_rows and lane = 4 g + t:

    values  outer   bytes    [row block: PR/16][lane: 32][k half: 2][row half: 2][byte: 4]          mma.sp.m16n8k64.s8
            middle  bytes    [row block][lane][row half: 2][byte: 4]                                a k half of it
    meta    outer   nibbles  [row block][g][k half: 2][row half: 2][group: 8]
            middle  nibbles  [row block][g][row half: 2][group: 8]

The outer part has the first and the third windows, each four neighbouring columns. The middle part has 32 places along K:
place 16 h + 4 T + b is column 16 T + 8 h + 2 + b of the slab (h = 0, 1; T, b = 0 … 3). A byte of it is the kept value
4 t + byte of its row, and a nibble has the positions of the four places from 4 · group on. The middle parts of two slabs are
the two k halves of an instruction. Rows and columns of padding keep the first six positions of each group, with zeros.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from masklearn.base.compiled import compiled, inlined
from patch_compile.packing.slab_kinds import SLAB_K

GROUP, WINDOWS = 8, 3
_GROUPS = SLAB_K // GROUP  # groups in a row of a slab
_SPARE = 0b00111111  # code of padding


def _positions_of_codes() -> NDArray[np.uint8]:
    """Returns the two positions in each window `[code, window, value]`, 0 to 3; zeros for codes that do not keep 6."""
    found = np.zeros((256, WINDOWS, 2), np.uint8)
    for code in range(256):
        kept = [position for position in range(GROUP) if code >> position & 1]
        if len(kept) == WINDOWS * 2:
            first = kept[:2]
            last = [position for position in kept if position >= 6]
            third = [position for position in kept if position in (4, 5)][: 2 - len(last)] + last
            middle = [position for position in kept if position not in first + third]
            found[code] = np.array([first, middle, third]) - np.array([[0], [2], [4]])
    return found


_POSITIONS = _positions_of_codes()


@compiled
def pack_panel_of_eight(
    weight: NDArray[np.uint16],
    codes: NDArray[np.uint8],
    chosen: NDArray[np.bool_],
    slots: NDArray[np.int64],
    values: NDArray[np.uint16],
    meta: NDArray[np.uint32],
) -> None:
    """Write the slabs of 6:8 of a panel.

    weight: the panel's rows, `[rows, K]`; codes: `[rows, K/8]`; chosen: True for each slab along K of this kind; slots: row
    of each slab in `values` `[slabs, PR·48]`, integers as 16-bit values, and in `meta` `[slabs, PR·3]`, which must be zero
    before.
    """
    panel_rows, rows, groups = meta.shape[1] // 3, codes.shape[0], codes.shape[1]
    for slab in range(len(chosen)):
        if not chosen[slab]:
            continue
        slot = slots[slab]
        for row in range(panel_rows):
            for j in range(_GROUPS):
                inside = row < rows and slab * _GROUPS + j < groups
                code = codes[row, slab * _GROUPS + j] if inside else np.uint8(_SPARE)
                for window in range(WINDOWS):
                    group = _group(j, window)
                    low, high = np.uint32(_POSITIONS[code, window, 0]), np.uint32(_POSITIONS[code, window, 1])
                    shift = np.uint32(4 * (group % 8))
                    meta[slot, _meta_word(row, group, window, panel_rows)] |= (
                        low | high << np.uint32(2)
                    ) << shift
                    if inside:
                        column, at = _column(slab, j, window), _value(row, group, window, panel_rows)
                        values[slot, at] = weight[row, column + low]
                        values[slot, at + 1] = weight[row, column + high]


@compiled
def unpack_panel_of_eight(
    weight: NDArray[np.uint16],
    chosen: NDArray[np.bool_],
    slots: NDArray[np.int64],
    values: NDArray[np.uint16],
    meta: NDArray[np.uint32],
) -> bool:
    """Fill the chosen slabs of `weight` (see `pack_panel_of_eight`). Returns False if a group does not keep 6 weights."""
    panel_rows, rows, groups = meta.shape[1] // 3, weight.shape[0], weight.shape[1] // GROUP
    for slab in range(len(chosen)):
        if not chosen[slab]:
            continue
        slot = slots[slab]
        for row in range(rows):
            for j in range(min(_GROUPS, groups - slab * _GROUPS)):
                taken, start = 0, _column(slab, j, 0)
                weight[row, start : start + GROUP] = 0
                for window in range(WINDOWS):
                    group = _group(j, window)
                    nibble = meta[slot, _meta_word(row, group, window, panel_rows)] >> np.uint32(
                        4 * (group % 8)
                    )
                    low, high = int(nibble & np.uint32(3)), int(nibble >> np.uint32(2) & np.uint32(3))
                    both = (1 << low | 1 << high) << 2 * window
                    if low >= high or taken & both:
                        return False
                    taken |= both
                    column, at = _column(slab, j, window), _value(row, group, window, panel_rows)
                    weight[row, column + low] = values[slot, at]
                    weight[row, column + high] = values[slot, at + 1]
    return True


@inlined
def _column(slab: Any, j: Any, window: Any) -> Any:
    """Returns the first column of a window of group j of a slab."""
    return slab * SLAB_K + j * GROUP + 2 * window


@inlined
def _group(j: Any, window: Any) -> Any:
    """Returns the number of a window among the groups of four places of its part."""
    return j % 2 * 4 + j // 2 if window == 1 else j % 2 * 8 + window // 2 * 4 + j // 2


@inlined
def _value(row: Any, group: Any, window: Any, panel_rows: Any) -> Any:
    """Returns the offset in a slab of the first of a window's two values."""
    lane, half = row // 16 * 32 + row % 8 * 4 + group % 8 // 2, row % 16 // 8
    word = panel_rows * 8 + lane * 2 + half if window == 1 else lane * 4 + group // 8 * 2 + half
    return word * 4 + group % 2 * 2


@inlined
def _meta_word(row: Any, group: Any, window: Any, panel_rows: Any) -> Any:
    line, half = row // 16 * 8 + row % 8, row % 16 // 8
    return panel_rows * 2 + line * 2 + half if window == 1 else line * 4 + group // 8 * 2 + half
