"""An independent packer of integers, which says which bits of a slab belong to each integer.

As `element_packing`, it shares no code with `patch_compile.packing`. Slabs have 64 rows, or 128 with w8a8. A place is the
number of a byte (int8, w8a8) or of 4 bits (int4) of a slab, from the lowest bits of its first word on.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.oracles.element_packing import (
    KEPT,
    W8A8,
    OfSixteen,
    Packed,
    compress,
    in_turns,
    kept_of,
    pack_slabs,
)

INT8, INT4 = 1, 3
"""Numbers of the types in plugins/kernels/weights.h; 0 are 16 bits."""
BITS, LOWEST = {INT8: 8, INT4: 4, W8A8: 8}, {INT8: -128, INT4: -8, W8A8: -128}
BIAS = {INT8: 128, INT4: 8, W8A8: 0}
_ROWS, _COLUMNS = 64, 64
_OF_EIGHT = 2  # the kind 6:8 of w8a8
_ALIVE = 1000  # added to integers that are not 0, so that the packer of masks sees no zero in their bits


@dataclass(frozen=True)
class Quantised:
    """integers: int8 `[N, K]`; scales: fp32, `[N]`, or `[N, ceil(K/64)]` of int4."""

    type: int
    integers: NDArray[np.int8]
    scales: NDArray[np.float32]

    def products(self) -> NDArray[np.float64]:
        """Integers times scales `[N, K]`, exactly."""
        scales = np.repeat(self.scales, 64, 1) if self.type == INT4 else self.scales[:, None]
        return self.integers.astype(np.float64) * scales[:, : self.integers.shape[1]].astype(np.float64)


def quantise(weight: NDArray[np.float32], kind: int, rng: np.random.Generator) -> Quantised:
    """Round weights to a grid; zeros stay zeros. Some of the others become the lowest integer or the highest.

    Scales have both signs. Scales of int4 have few significant bits, so that fp16 and bf16 both hold them.
    """
    rows, columns = weight.shape
    slabs = -(-columns // 64)
    if kind != INT4:
        scales = (np.exp2(rng.uniform(-9, -7, rows)) / 4).astype(np.float32)
    else:
        scales = (
            rng.integers(128, 256, (rows, slabs)) * np.exp2(rng.integers(-13, -11, (rows, slabs)))
        ).astype(np.float32)
    scales *= rng.choice([-1, 1], scales.shape).astype(np.float32)
    spread = np.repeat(scales, 64, 1)[:, :columns] if kind == INT4 else scales[:, None]
    bound = -LOWEST[kind]
    integers = np.clip(np.rint(weight / spread), -bound, bound - 1).astype(np.int8)
    extreme = (weight != 0) & (rng.random(weight.shape) < 0.05)
    integers[extreme] = rng.choice([-bound, bound - 1], int(extreme.sum()))
    return Quantised(kind, integers, scales)


def pack_integers(
    one: Quantised, grid: NDArray[Any], dtype: np.dtype[Any] | None, panel_rows: int = _ROWS
) -> Packed:
    """Pack integers `[N, K]`.

    grid: code of each slab's kind; dtype: type of X, in which int4's scales are stored; None is bfloat16, too.
    """
    bits = np.where(one.integers == 0, 0, one.integers.astype(np.int32) + _ALIVE).astype(np.uint16)
    of_eight = (_OF_EIGHT,) if one.type == W8A8 else ()
    packed = pack_slabs(bits, grid, panel_rows, of_eight)  # for its index, metadata and masks
    panels, slabs = grid.shape
    whole = np.zeros((panels * panel_rows, slabs * _COLUMNS), np.int32)
    whole[: bits.shape[0], : bits.shape[1]] = one.integers
    stored: dict[int, list[NDArray[np.int32]]] = {kind: [] for kind in packed.kinds}
    meta: list[NDArray[np.int32]] = []
    meta_of_eight: list[NDArray[np.int32]] = []
    for p in range(panels):
        for k in range(slabs):
            slab = whole[p * panel_rows :, k * _COLUMNS :][:panel_rows, :_COLUMNS]
            kind = int(grid[p, k])
            if kind in of_eight:
                values_of_slab, codes = pack_six_of_eight(slab)
                stored[kind].append(values_of_slab)
                meta_of_eight.append(codes)
                continue
            words = _words(_in_places(slab, kind, one.type), one.type)
            if one.type == INT4:
                column = np.zeros(_ROWS, np.float32)
                own = one.scales[p * _ROWS : (p + 1) * _ROWS, k]
                column[: len(own)] = own
                words = np.concatenate([words, _scale_words(_scale_bits(column, dtype))])
            stored[kind].append(words)
            if kind == 1 and one.type == W8A8:
                meta.append(_meta_words(compress(slab.astype(np.uint16))[1]))

    def values(kind: int) -> NDArray[np.int32]:
        width = panel_rows * kept_of(one.type)[kind] * BITS[one.type] // 8 + (
            _ROWS // 2 if one.type == INT4 else 0
        )  # words
        return np.array(stored[kind], np.int32).reshape(-1, width)

    scales = None
    if one.type != INT4:
        scales = np.zeros(panels * panel_rows, np.float32)
        scales[: len(one.scales)] = one.scales
    return replace(
        packed,
        dense=values(0),
        sparse=values(1),
        meta=np.array(meta, np.int32).reshape(-1, 2 * panel_rows) if one.type == W8A8 else packed.meta,
        others=tuple(
            OfSixteen(
                other.kind,
                values(other.kind),
                np.array(meta_of_eight, np.int32) if other.kind in of_eight else other.masks,
            )
            for other in packed.others
        ),
        weights=one.type,
        scales=scales,
    )


def pack_gated_integers(
    sides: list[Quantised], grid: NDArray[Any], dtype: np.dtype[Any] | None, panel_rows: int = _ROWS
) -> Packed:
    """Pack gate and up of one shape. grid: codes of the slabs of the rows of both."""
    together = Quantised(
        sides[0].type,
        in_turns(np.stack([side.integers for side in sides])),
        in_turns(np.stack([side.scales for side in sides])),
    )
    packed = pack_integers(together, grid, dtype, panel_rows)
    return replace(packed, shape=sides[0].integers.shape, gated=True)


def pack_six_of_eight(slab: NDArray[np.int32]) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Pack a slab [rows, 64] of w8a8 that keeps 6 of 8 neighbours. Returns values [rows * 12], metadata [rows * 3].

    The windows of columns 0 … 3 and 4 … 7 of the 8 are a 2:4 slab. Columns 2 … 5 are what they have no room for: place
    16 h + 4 t + b of 32 is column 16 t + 8 h + 2 + b.
    """
    outer, middle = slab.copy(), np.zeros((len(slab), 32), np.int32)
    for row, first in np.ndindex(len(slab), 8):
        eight = slab[row, 8 * first : 8 * first + 8]
        for own, shared in (((0, 1), (2, 3)), ((6, 7), (4, 5))):
            room = 2 - np.count_nonzero(eight[list(own)])
            for position in shared:
                if eight[position] and not room:
                    t, h = divmod(first, 2)
                    middle[row, 16 * h + 4 * t + position - 2] = eight[position]
                    outer[row, 8 * first + position] = 0
                elif eight[position]:
                    room -= 1
    kept, nibbles = compress(middle.astype(np.uint16))
    bytes_of_middle = np.zeros((len(slab) // 16, 32, 2, 4), np.uint32)
    meta_of_middle = np.zeros((len(slab) // 16, 8, 2), np.uint32)
    for row in range(len(slab)):
        block, half, g = row // 16, row % 16 // 8, row % 8
        for t, byte in np.ndindex(4, 4):
            bytes_of_middle[block, 4 * g + t, half, byte] = kept[row, 4 * t + byte] & 255
        for group in range(8):
            meta_of_middle[block, g, half] |= nibbles[row, group] << np.uint32(4 * group)
    values = np.concatenate(
        [_words(_in_places(outer, 1, W8A8), W8A8), _words(bytes_of_middle.reshape(-1), W8A8)]
    )
    outer_meta = _meta_words(compress(outer.astype(np.uint16))[1])
    return values, np.concatenate([outer_meta, meta_of_middle.reshape(-1).view(np.int32)])


def _in_places(slab: NDArray[np.int32], kind: int, type_: int) -> NDArray[np.uint32]:
    """Stored numbers of a slab [rows, 64], by their places."""
    if kind > 0:
        # [row, column] of the positions of a group: the positions of a lane, or four neighbours.
        columns = np.array(
            [[16 * step + 2 * t + i for step in range(4) for i in (0, 1, 8, 9)] for t in range(4)]
            if kind > 1
            else [[4 * group + i for i in range(4)] for group in range(16)]
        )
        groups = slab[:, columns]
        kept = columns.shape[1] * KEPT[kind] // 16
        # Nonzero weights are kept, then the first zeros.
        taken = np.sort((groups == 0).argsort(-1, kind="stable")[..., :kept], -1)
        numbers = np.take_along_axis(groups, taken, -1).reshape(len(slab), -1)
    else:
        numbers = slab
    out = np.zeros(numbers.size, np.uint32)
    out[_places(kind, type_, len(slab))] = numbers + BIAS[type_] & (1 << BITS[type_]) - 1
    return out


@cache
def _places(kind: int, type_: int, rows: int) -> NDArray[np.int64]:
    """Places of the kept integers of a slab: [row, column] of dense and 2:4 slabs, [row, t and rank] of n:16 slabs."""
    each = 4 * KEPT[kind]
    found = [
        [
            _place(
                kind, type_, rows // 16, row, *((at % KEPT[kind], at // KEPT[kind]) if kind > 1 else (at, 0))
            )
            for at in range(each)
        ]
        for row in range(rows)
    ]
    assert sorted(place for row in found for place in row) == list(range(rows * each))
    return np.array(found)


def _place(kind: int, type_: int, blocks: int, row: int, at: int, t: int) -> int:
    """Place of an integer. at: its column among those that are kept (dense, 2:4), or its rank in the group of lane t."""
    block, half, g = row // 16, row % 16 // 8, row % 8
    if type_ == W8A8:
        return _place_of_eight_bit_products(kind, blocks, row, at)
    if kind <= 1:
        step, k_half, t, pair = at // 16, at % 16 // 8, at % 8 // 2, at % 2
        lane, steps = 4 * g + t, 2 if kind else 4
        if type_ == INT4:
            return ((block * 32 + lane) * steps + step) * 8 + pair * 4 + k_half * 2 + half
        if kind == 0:
            in_lane = (step % 2 * 8) + k_half * 4 + half * 2 + pair
            return ((step // 2 * blocks + block) * 32 + lane) * 16 + in_lane
        return (block * 32 + lane) * 16 + step * 8 + k_half * 4 + half * 2 + pair
    lane, eights, lanes = block * 32 + 4 * g + t, KEPT[kind] // 8, blocks * 32
    rank, begin = at, 0
    if rank < 8 * eights:
        in_word = (rank % 4) * 2 + rank // 4 if type_ == INT4 else rank
        return (lane * 2 + half) * 8 + in_word
    rank, begin = rank - 8 * eights, 16 * lanes * eights
    return begin + lane * 8 + (rank * 2 + half if type_ == INT4 else half * 4 + rank)


def _place_of_eight_bit_products(kind: int, blocks: int, row: int, at: int) -> int:
    """Byte of a number of w8a8: byte `b` of register `r` of lane 4g + t (PTX ISA 9.7.14.5.10 and 9.7.14.6.2.7).

    Column 16t + 4i + b of a slab is number 16i + 4t + b along K for the instructions.
    """
    columns, each = (at // 2 * 4, 2) if kind else (at, 4)  # the first column of its group, numbers of a group
    along_k = columns % 16 // 4 * 4 + columns // 16  # of the group, among the 16 groups of the instructions
    number = along_k * each + at % each
    k, k_half, t, b = number // 32, number % 32 // 16, number % 16 // 4, number % 4
    register, lane = 2 * k_half + row % 16 // 8, row % 8 * 4 + t
    return (((k * blocks + row // 16) * 32 + lane) * 4 + register) * 4 + b


def _meta_words(nibbles: NDArray[np.uint32]) -> NDArray[np.int32]:
    """Order [rows, 16 groups of columns] as the words of all lanes for m16n8k64 (PTX ISA 9.7.14.6.2.7).

    Lane 4g + t has row g + 8 (t % 2), and the groups 8 (t // 2) … along K, four bits each.
    """
    out = np.zeros((len(nibbles) // 16, 32), np.uint32)
    for lane in range(32):
        g, t = divmod(lane, 4)
        rows = nibbles[g + 8 * (t % 2) :: 16]
        for n in range(8):
            along_k = 8 * (t // 2) + n
            out[:, lane] |= rows[:, along_k % 4 * 4 + along_k // 4] << np.uint32(4 * n)
    return out.reshape(-1).view(np.int32)


def _words(numbers: NDArray[np.uint32], type_: int) -> NDArray[np.int32]:
    each = 32 // BITS[type_]
    shifts = np.arange(each, dtype=np.uint32) * np.uint32(BITS[type_])
    return (numbers.reshape(-1, each) << shifts).sum(-1, dtype=np.uint32).view(np.int32)


def _scale_bits(scales: NDArray[np.float32], dtype: np.dtype[Any] | None) -> NDArray[np.uint16]:
    """Bits of scales that a 16-bit type holds exactly."""
    if dtype == np.float16:
        return scales.astype(np.float16).view(np.uint16)
    return (scales.view(np.uint32) >> np.uint32(16)).astype(np.uint16)


def _scale_words(bits: NDArray[np.uint16]) -> NDArray[np.int32]:
    """Order the scales [64] of a slab's rows: a word for rows g and g + 8 of each row block."""
    halves = bits.reshape(_ROWS // 16, 2, 8).astype(np.uint32)
    return (halves[:, 0] | halves[:, 1] << np.uint32(16)).reshape(-1).view(np.int32)
