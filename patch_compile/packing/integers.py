"""The order of quantised weights in the int32 words of a slab, and the loops that move them, compiled by numba.

The integers q of a slab are first packed as if they were 16-bit values (`format`, `n16`), and then put in the order below,
which gives a lane all integers of a load side by side. Slabs of 6:8 have their final order from the start (`six_eight`).
With PR = panel_rows and lane = 4 g + t:

    int8 dense  bytes    [k32: 2][row block: PR/16][lane: 32][k16: 2][k half: 2][row half: 2][pair: 2]
    int8 2:4    bytes    [row block][lane][k32: 2][k half: 2][row half: 2][pair: 2]
    int8 n:16   bytes    the first 8         [row block][lane][row half: 2][8]
                         the others, if any  [row block][lane][row half: 2][n - 8]
    int4 dense  nibbles  [row block][lane][k16: 4][pair: 2][k half: 2][row half: 2]
    int4 2:4    nibbles  [row block][lane][k32: 2][pair: 2][k half: 2][row half: 2]
    int4 n:16   nibbles  the first 8         [row block][lane][row half: 2][rank % 4: 4][rank // 4: 2]
                         the others, if any  [row block][lane][rank: n - 8][row half: 2]
    int4 scales          behind the nibbles, a word [row block][g: 8]: row g in the low half, row g + 8 in the high half

    w8a8 dense  bytes    [k32: 2][row block][lane][k half: 2][row half: 2][byte: 4]                mma.m16n8k32.s8
    w8a8 2:4    bytes    [row block][lane][k half: 2][row half: 2][byte: 4]                        mma.sp.m16n8k64.s8
    w8a8 meta   nibbles  [row block][g][k half: 2][row half: 2][group: 8]

A byte holds q + 128 and a nibble q + 8, the first byte or nibble in the lowest bits of a word; a byte of w8a8 holds q, in
two's complement. Padding and pruned weights are 0. Scales of int4 are raw bits of the graph's 16-bit type. Metadata of 2:4
and masks of n:16 are the same as for 16-bit weights, except with w8a8.

Column 16 T + 4 i + b of a slab of w8a8 (T, i, b = 0 … 3) has place 16 i + 4 T + b along K in the products, so that the
operands of X that lane t needs for a slab are 16 neighbouring columns, from 16 t on. A byte of a dense slab has place
32 k32 + 16 k half + 4 t + byte. A byte of a 2:4 slab is the kept value 16 k half + 4 t + byte of its row, in the order of
places, and a nibble of its metadata belongs to the four places from 32 k half + 4 group on. All 32 lanes give their word of
metadata to the instruction (PTX ISA 9.7.14.6.2.7, figures of m16n8k64).
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
from masklearn.quant.table import WeightType
from patch_compile.packing.slab_kinds import SLAB_K, value_words

_LANES, _BYTE = 32, 8
_STEP = 64  # slabs that one thread takes at a time


def narrowed(
    wide: NDArray[np.uint16], kind: TileKind, weights: WeightType, panel_rows: int, scales: NDArray[np.uint32]
) -> NDArray[np.int32]:
    """Returns slabs as int32 words.

    wide: integers as 16-bit values, in the order of 16-bit slabs, `[slabs, values]`; scales: words behind the integers of
    each slab, `[slabs, words]`, none with a scale per row.
    """
    words = value_words(kind, weights, panel_rows)
    found = np.empty((len(wide), words + scales.shape[1]), np.uint32)
    found[:, words:] = scales
    order, stored = _order(kind, weights, panel_rows), found.view(np.uint8)
    flip = _flip(weights)
    if weights.bits == _BYTE:
        _in_threads(len(wide), lambda own: _to_bytes(wide[own], order, stored[own], flip))
    else:
        _in_threads(len(wide), lambda own: _to_nibbles(wide[own], order, stored[own]))
    return found.view(np.int32)


def widened(
    stored: NDArray[np.int32], kind: TileKind, weights: WeightType, panel_rows: int
) -> NDArray[np.uint16]:
    """Returns the integers of slabs as 16-bit values, in the order of 16-bit slabs: the inverse of `narrowed`."""
    order, raw = _order(kind, weights, panel_rows), np.ascontiguousarray(stored).view(np.uint8)
    wide = np.empty((len(stored), len(order)), np.uint16)
    flip = _flip(weights)
    if weights.bits == _BYTE:
        _in_threads(len(wide), lambda own: _from_bytes(raw[own], order, wide[own], flip))
    else:
        _in_threads(len(wide), lambda own: _from_nibbles(raw[own], order, wide[own]))
    return wide


def metadata_of_k64(meta: NDArray[np.int32]) -> NDArray[np.int32]:
    """Returns the metadata of 2:4 slabs, `[slabs, PR·2]`, in the order of w8a8; meta: in the order of 16-bit weights."""
    # [slab, row block, g, t, row half, k half, group // 4]
    nibbles = _nibbles(meta).reshape(len(meta), meta.shape[1] // _LANES, 8, 4, 2, 2, 2)
    return _words(nibbles.transpose(0, 1, 2, 5, 4, 6, 3), meta)


def metadata_of_k32(meta: NDArray[np.int32]) -> NDArray[np.int32]:
    """Inverse of `metadata_of_k64`."""
    # [slab, row block, g, k half, row half, group // 4, group % 4]
    nibbles = _nibbles(meta).reshape(len(meta), meta.shape[1] // _LANES, 8, 2, 2, 2, 4)
    return _words(nibbles.transpose(0, 1, 2, 6, 4, 3, 5), meta)


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


def _flip(weights: WeightType) -> np.uint8:
    """Returns the bits by which a byte differs from q + 128."""
    return np.uint8(0 if weights.widened else 128)


def _nibbles(words: NDArray[np.int32]) -> NDArray[np.uint8]:
    raw = np.ascontiguousarray(words).view(np.uint8)
    return np.stack([raw & np.uint8(15), raw >> np.uint8(4)], axis=-1)


def _words(nibbles: NDArray[np.uint8], like: NDArray[np.int32]) -> NDArray[np.int32]:
    pairs = nibbles.reshape(-1, 2)
    return (pairs[:, 0] | pairs[:, 1] << np.uint8(4)).view(np.int32).reshape(like.shape)


@cache
def _order(kind: TileKind, weights: WeightType, panel_rows: int) -> NDArray[np.int32]:
    """Returns, for each stored integer of a slab, its place among the 16-bit values of the slab."""
    blocks, wide = panel_rows // 16, weights.bits == _BYTE
    places = np.arange(panel_rows * SLAB_K * kind.kept // kind.group, dtype=np.int32)
    if not weights.widened and kind not in (DENSE, TWO_FOUR):
        return places
    if not weights.widened:
        # Of 16-bit values [k16 or k32][row block][g][t // 2][t % 2][k half][row half][pair].
        fragments = places.reshape(-1, blocks, 8, 2, 2, 2, 2, 2)
        order = fragments.transpose((5, 1, 2, 0, 3, 6, 4, 7) if kind is DENSE else (1, 2, 4, 0, 3, 6, 5, 7))
    elif kind is DENSE and wide:
        order = places.reshape(2, 2, blocks, _LANES, 8).transpose(0, 2, 3, 1, 4)
    elif kind is DENSE or kind is TWO_FOUR:
        fragments = places.reshape(-1, blocks, _LANES, 2, 2, 2)
        order = fragments.transpose((1, 2, 0, 3, 4, 5) if wide else (1, 2, 0, 5, 3, 4))
    else:
        return _order_of_sixteen(places, blocks * _LANES, wide=wide)
    return np.ascontiguousarray(order).reshape(-1)


def _order_of_sixteen(places: NDArray[np.int32], lanes: int, *, wide: bool) -> NDArray[np.int32]:
    first, others = np.split(places, [8 * 2 * lanes])
    first = first.reshape(2, lanes, 2, 4).transpose((1, 0, 2, 3) if wide else (1, 0, 3, 2))
    others = others.reshape(lanes, 2, -1).transpose((0, 1, 2) if wide else (0, 2, 1))
    return np.concatenate([first.reshape(-1), others.reshape(-1)])


def _in_threads(slabs: int, work: Callable[[slice], object]) -> None:
    """Call `work(slabs of a part)` for all slabs, in threads on all cores: the loops release Python's global lock."""
    parts = [slice(start, start + _STEP) for start in range(0, slabs, _STEP)]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for _ in pool.map(work, parts):
            pass


@compiled
def _to_bytes(
    wide: NDArray[np.uint16], order: NDArray[np.int32], stored: NDArray[np.uint8], flip: np.uint8
) -> None:
    for slab in range(wide.shape[0]):
        for at in range(order.shape[0]):
            stored[slab, at] = np.uint8(wide[slab, order[at]] + np.uint16(128)) ^ flip


@compiled
def _from_bytes(
    stored: NDArray[np.uint8], order: NDArray[np.int32], wide: NDArray[np.uint16], flip: np.uint8
) -> None:
    for slab in range(wide.shape[0]):
        for at in range(order.shape[0]):
            wide[slab, order[at]] = np.uint16(np.int16(stored[slab, at] ^ flip) - np.int16(128))


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
