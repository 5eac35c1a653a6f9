"""Inner loops of packing, compiled by numba: a panel of a linear to its slabs, and back.

`patch_compile.packing.format` describes the layout of a slab. Two neighbouring 16-bit values are a 32-bit word here. A group
of four values is two words, and a lane's fragment is four words: [k half: 2][row half: 2].
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from masklearn.base.compiled import compiled, inlined
from masklearn.masks.nm_codes import KEPT_POSITIONS, PATTERNS

DENSE = 6  # code of a group in a dense tile; the six 2:4 patterns have the codes 0..5
BAD_METADATA = -1
_GROUPS = 16  # groups in a row of a slab

_FIRST, _SECOND = np.array(KEPT_POSITIONS, np.uint32).T.copy()
_NIBBLE = _FIRST | _SECOND << np.uint32(2)
_CODE_OF_NIBBLE = np.full(16, DENSE, np.uint8)
_CODE_OF_NIBBLE[_NIBBLE] = np.arange(6)
_ALL, _LOW = np.uint32(0xFFFFFFFF), np.uint32(0xFFFF)


def _kept_bits(word: int) -> NDArray[np.uint32]:
    """Returns, for each code, the bits of word 0 or 1 of a group that the pattern keeps."""
    bits = np.full(7, _ALL, np.uint32)
    for code, kept in enumerate(KEPT_POSITIONS):
        bits[code] = sum(0xFFFF << 16 * (position % 2) for position in kept if position // 2 == word)
    return bits


_KEPT_0, _KEPT_1 = _kept_bits(0), _kept_bits(1)
KEEP = np.where(np.vstack([PATTERNS, np.ones((1, 4), np.bool_)]), 0xFFFF, 0).astype(np.uint16).view(np.uint32)
"""Kept bits of the two words of a group of 2:4 by its code, `[code, word]`; the last code is a group in another tile. They
come from PATTERNS and not from KEPT_POSITIONS, so that a mistake in either of the two shows in `count_differences`."""


@compiled
def panel_codes(
    pattern: NDArray[np.uint8], covered: NDArray[np.bool_], starts: NDArray[np.int64]
) -> NDArray[np.uint8]:
    """Returns the code of every group of some rows, `[rows, K/4]`.

    covered: `[rows, K/4]`, True for a group in a sparse tile; starts: index in `pattern` of each row's first pattern.
    """
    codes = np.full(covered.shape, DENSE, np.uint8)
    for row in range(covered.shape[0]):
        at = starts[row]
        for group in range(covered.shape[1]):
            if covered[row, group]:
                codes[row, group] = pattern[at]
                at += 1
    return codes


@compiled
def pack_panel(
    words: NDArray[np.uint32],
    codes: NDArray[np.uint8],
    numbers: NDArray[np.uint8],
    slots: NDArray[np.int64],
    dense: NDArray[np.uint32],
    sparse: NDArray[np.uint32],
    meta: NDArray[np.uint32],
) -> None:
    """Write the slabs of a panel. Rows and columns beyond N and K become zero.

    words: the panel's rows of the weight, `[rows, K/2]`; codes: `[rows, K/4]`; numbers: for each slab along K 0 if it is
    stored densely, 1 if as 2:4; slabs with other numbers are skipped; slots: row of each slab in `dense`, or in `sparse` and
    `meta`. These rows must be zero before.
    """
    panel_rows, rows, groups = dense.shape[1] // 32, codes.shape[0], codes.shape[1]
    for slab in range(len(slots)):
        slot, first = slots[slab], slab * _GROUPS
        inside = min(_GROUPS, groups - first)
        if numbers[slab] > 1:
            continue
        if numbers[slab] == 0:
            for row in range(rows):
                for j in range(inside):
                    code, at = codes[row, first + j], _dense_word(row, j, panel_rows)
                    dense[slot, at] = words[row, 2 * (first + j)] & _KEPT_0[code]
                    dense[slot, at + 4] = words[row, 2 * (first + j) + 1] & _KEPT_1[code]
            continue
        for row in range(panel_rows):
            for j in range(_GROUPS):
                code = np.uint8(0)
                if row < rows and j < inside:
                    code = codes[row, first + j]
                    word0, word1 = words[row, 2 * (first + j)], words[row, 2 * (first + j) + 1]
                    group = word0 | np.uint64(word1) << np.uint64(32)
                    low = np.uint32(group >> np.uint64(16) * _FIRST[code]) & _LOW
                    high = np.uint32(group >> np.uint64(16) * _SECOND[code]) << np.uint32(16)
                    sparse[slot, _sparse_word(row, j, panel_rows)] = low | high
                meta[slot, _meta_word(row, j)] |= _NIBBLE[code] << _meta_shift(row, j)


@compiled
def unpack_panel(
    words: NDArray[np.uint32],
    numbers: NDArray[np.uint8],
    slots: NDArray[np.int64],
    dense: NDArray[np.uint32],
    sparse: NDArray[np.uint32],
    meta: NDArray[np.uint32],
) -> int:
    """Fill `words` (see `pack_panel`) from the slabs of a panel. Returns 0, or BAD_METADATA."""
    panel_rows, rows, groups = dense.shape[1] // 32, words.shape[0], words.shape[1] // 2
    for slab in range(len(slots)):
        slot = slots[slab]
        if numbers[slab] > 1:
            continue
        for row in range(rows):
            for j in range(min(_GROUPS, groups - slab * _GROUPS)):
                group = slab * _GROUPS + j
                if numbers[slab] == 0:
                    at = _dense_word(row, j, panel_rows)
                    words[row, 2 * group], words[row, 2 * group + 1] = dense[slot, at], dense[slot, at + 4]
                    continue
                code = _CODE_OF_NIBBLE[meta[slot, _meta_word(row, j)] >> _meta_shift(row, j) & np.uint32(15)]
                if code == DENSE:
                    return BAD_METADATA
                pair = sparse[slot, _sparse_word(row, j, panel_rows)]
                low = np.uint64(pair & _LOW) << np.uint64(16) * _FIRST[code]
                high = np.uint64(pair >> np.uint32(16)) << np.uint64(16) * _SECOND[code]
                words[row, 2 * group] = np.uint32(low | high)
                words[row, 2 * group + 1] = np.uint32((low | high) >> np.uint64(32))
    return 0


@compiled
def count_differences(words: NDArray[np.uint32], weight: NDArray[np.uint32], codes: NDArray[np.uint8]) -> int:
    """Returns the number of wrong values in `words` `[rows, K/2]`: each should be `weight`'s if kept by its code, else 0."""
    differ = 0
    for row in range(codes.shape[0]):
        for group in range(codes.shape[1]):
            for half in range(2):
                expected = weight[row, 2 * group + half] & KEEP[codes[row, group], half]
                wrong = words[row, 2 * group + half] ^ expected
                differ += ((wrong & _LOW) != 0) + (wrong > _LOW)
    return differ


# Offsets in a slab of the words of group j of a row. The lane is 4 (row % 8) + t; t and the half of K follow from j.


@inlined
def _dense_word(row: Any, j: Any, panel_rows: Any) -> Any:
    """Returns the offset of a group's first word; the second word belongs to the next lane."""
    return _word(row, j // 4, j % 2 * 2, j % 4 // 2, panel_rows)


@inlined
def _sparse_word(row: Any, j: Any, panel_rows: Any) -> Any:
    """Returns the offset of the word that holds both kept values."""
    return _word(row, j // 8, j % 4, j % 8 // 4, panel_rows)


@inlined
def _word(row: Any, k_block: Any, t: Any, k_half: Any, panel_rows: Any) -> Any:
    fragment = ((k_block * (panel_rows // 16) + row // 16) * 8 + row % 8) * 4 + t
    return fragment * 4 + k_half * 2 + row % 16 // 8


@inlined
def _meta_word(row: Any, j: Any) -> Any:
    return (row // 16 * 8 + row % 8) * 4 + j // 4


@inlined
def _meta_shift(row: Any, j: Any) -> Any:
    return np.uint32(row % 16 // 8 * 16 + j % 4 * 4)
