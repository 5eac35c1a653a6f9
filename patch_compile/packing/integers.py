"""The order of int8 and int4 weights in the int32 words of a slab, and the loops that move them, compiled by numba.

The integers q of a slab are first packed as if they were 16-bit values (`format`, `n16`), and then put in the order below,
which gives a lane all integers of a load side by side. With PR = panel_rows and lane = 4 g + t:

    int8 dense  bytes    [k32: 2][row block: PR/16][lane: 32][k16: 2][k half: 2][row half: 2][pair: 2]
    int8 2:4    bytes    [row block][lane][k32: 2][k half: 2][row half: 2][pair: 2]
    int8 n:16   bytes    n // 8 times   [row block][lane][row half: 2][8]
                         if n % 8 >= 4  [row block][lane][row half: 2][4]
                         if n % 4 == 2  [row block][lane][row half: 2][2]
    int4 dense  nibbles  [row block][lane][k16: 4][pair: 2][k half: 2][row half: 2]
    int4 2:4    nibbles  [row block][lane][k32: 2][pair: 2][k half: 2][row half: 2]
    int4 n:16   nibbles  n // 8 times   [row block][lane][row half: 2][rank % 4: 4][rank // 4: 2]
                         if n % 8 >= 4  [row block][lane][rank: 4][row half: 2]
                         if n % 4 == 2  [row block][lane][rank: 2][row half: 2]
    int4 scales          behind the nibbles, a word [row block][g: 8]: row g in the low half, row g + 8 in the high half

A byte holds q + 128 and a nibble q + 8, the first byte or nibble in the lowest bits of a word. Padding and pruned weights
are 0. Scales of int4 are raw bits of the graph's 16-bit type. Metadata of 2:4 and masks of n:16 are the same as for 16-bit
weights.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import numpy as np
from numpy.typing import NDArray

from masklearn.base.compiled import compiled
from masklearn.masks.kinds.base import TileKind
from masklearn.masks.kinds.table import DENSE, TWO_FOUR
from masklearn.quant.table import INT8, WeightType
from patch_compile.packing.slab_kinds import SLAB_K, value_words

_LANES = 32
_STEP = 64  # slabs that one thread takes at a time


def narrowed(
    wide: NDArray[np.uint16], kind: TileKind, weights: WeightType, panel_rows: int, scales: NDArray[np.uint32]
) -> NDArray[np.int32]:
    """Returns slabs as int32 words.

    wide: integers as 16-bit values, in the order of 16-bit slabs, `[slabs, values]`; scales: words behind the integers of
    each slab, `[slabs, words]`, none for int8.
    """
    words = value_words(kind, weights, panel_rows)
    found = np.empty((len(wide), words + scales.shape[1]), np.uint32)
    found[:, words:] = scales
    order, stored = _order(kind, weights, panel_rows), found.view(np.uint8)
    loop = _to_bytes if weights is INT8 else _to_nibbles
    _in_threads(len(wide), lambda own: loop(wide[own], order, stored[own]))
    return found.view(np.int32)


def widened(
    stored: NDArray[np.int32], kind: TileKind, weights: WeightType, panel_rows: int
) -> NDArray[np.uint16]:
    """Returns the integers of slabs as 16-bit values, in the order of 16-bit slabs: the inverse of `narrowed`."""
    order, raw = _order(kind, weights, panel_rows), np.ascontiguousarray(stored).view(np.uint8)
    wide = np.empty((len(stored), len(order)), np.uint16)
    loop = _from_bytes if weights is INT8 else _from_nibbles
    _in_threads(len(wide), lambda own: loop(raw[own], order, wide[own]))
    return wide


def scale_words(scales: NDArray[np.uint16]) -> NDArray[np.uint32]:
    """Returns the words of int4's scales of all slabs, `[panels, slabs, PR/2]`; scales: bits `[panels, PR, slabs]`."""
    panels, rows, slabs = scales.shape
    halves = scales.reshape(panels, rows // 16, 2, 8, slabs).astype(np.uint32)
    words = halves[:, :, 0] | halves[:, :, 1] << np.uint32(16)
    return np.ascontiguousarray(words.transpose(0, 3, 1, 2)).reshape(panels, slabs, rows // 2)


def scales_of_words(words: NDArray[np.uint32]) -> NDArray[np.uint16]:
    """Returns the bits of the scales of slabs, `[slabs, PR]`: the inverse of `scale_words`, slab by slab."""
    by_block = words.reshape(len(words), words.shape[1] // 8, 1, 8)
    halves = np.concatenate([by_block & np.uint32(0xFFFF), by_block >> np.uint32(16)], axis=2)
    return halves.astype(np.uint16).reshape(len(words), 2 * words.shape[1])


@cache
def _order(kind: TileKind, weights: WeightType, panel_rows: int) -> NDArray[np.int32]:
    """Returns, for each stored integer of a slab, its place among the 16-bit values of the slab."""
    blocks, wide = panel_rows // 16, weights is INT8
    places = np.arange(panel_rows * SLAB_K * kind.kept // kind.group, dtype=np.int32)
    if kind is DENSE and wide:
        order = places.reshape(2, 2, blocks, _LANES, 8).transpose(0, 2, 3, 1, 4)
    elif kind is DENSE or kind is TWO_FOUR:
        fragments = places.reshape(-1, blocks, _LANES, 2, 2, 2)
        order = fragments.transpose((1, 2, 0, 3, 4, 5) if wide else (1, 2, 0, 5, 3, 4))
    else:
        return _order_of_sixteen(places, kind.kept, blocks * _LANES, wide=wide)
    return np.ascontiguousarray(order).reshape(-1)


def _order_of_sixteen(places: NDArray[np.int32], kept: int, lanes: int, *, wide: bool) -> NDArray[np.int32]:
    whole, four = kept // 8 * 8, kept % 8 // 4 * 4
    eights, fours, twos = np.split(places, [whole * 2 * lanes, (whole + four) * 2 * lanes])
    by_eight = eights.reshape(-1, 2, lanes, 2, 4).transpose((0, 2, 1, 3, 4) if wide else (0, 2, 1, 4, 3))
    others = [part.reshape(lanes, 2, -1) for part in (fours, twos) if part.size]
    planes = [by_eight, *(part if wide else part.transpose(0, 2, 1) for part in others)]
    return np.concatenate([plane.reshape(-1) for plane in planes])


def _in_threads(slabs: int, work: Callable[[slice], object]) -> None:
    """Call `work(slabs of a part)` for all slabs, in threads on all cores: the loops release Python's global lock."""
    parts = [slice(start, start + _STEP) for start in range(0, slabs, _STEP)]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for _ in pool.map(work, parts):
            pass


@compiled
def _to_bytes(wide: NDArray[np.uint16], order: NDArray[np.int32], stored: NDArray[np.uint8]) -> None:
    for slab in range(wide.shape[0]):
        for at in range(order.shape[0]):
            stored[slab, at] = np.uint8(wide[slab, order[at]] + np.uint16(128))


@compiled
def _from_bytes(stored: NDArray[np.uint8], order: NDArray[np.int32], wide: NDArray[np.uint16]) -> None:
    for slab in range(wide.shape[0]):
        for at in range(order.shape[0]):
            wide[slab, order[at]] = np.uint16(np.int16(stored[slab, at]) - np.int16(128))


@compiled
def _to_nibbles(wide: NDArray[np.uint16], order: NDArray[np.int32], stored: NDArray[np.uint8]) -> None:
    for slab in range(wide.shape[0]):
        for at in range(order.shape[0] // 2):
            low = wide[slab, order[2 * at]] + np.uint16(8) & np.uint16(15)
            high = wide[slab, order[2 * at + 1]] + np.uint16(8) & np.uint16(15)
            stored[slab, at] = np.uint8(low | high << np.uint16(4))


@compiled
def _from_nibbles(stored: NDArray[np.uint8], order: NDArray[np.int32], wide: NDArray[np.uint16]) -> None:
    for slab in range(wide.shape[0]):
        for at in range(order.shape[0] // 2):
            both = stored[slab, at]
            wide[slab, order[2 * at]] = np.uint16(np.int16(both & np.uint8(15)) - np.int16(8))
            wide[slab, order[2 * at + 1]] = np.uint16(np.int16(both >> np.uint8(4)) - np.int16(8))
