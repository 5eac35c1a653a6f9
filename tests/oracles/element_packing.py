"""An independent packer that writes the format element by element, with the names of the PTX ISA's figures.

It shares no code with `patch_compile.packing.format`, so the kernels are tested against the written format and not against
one program's reading of it. It needs only numpy.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

KEPT = (16, 8, 8, 12)
"""Weights of 16 that a slab keeps, by the number of its kind: dense, 2:4, 8:16, 12:16."""

W8A8 = 2
"""Number of the type of weights in plugins/kernels/weights.h whose kinds are dense, 2:4 and 6:8."""


def kept_of(weights: int) -> tuple[int, ...]:
    """KEPT of a type of weights."""
    return (16, 8, 12) if weights == W8A8 else KEPT


@dataclass(frozen=True)
class OfSixteen:
    """Slabs of one n:16. kind: its number; values: uint16 `[slabs, PR·4·n]`, or words; masks: int32 `[slabs, PR·2]`."""

    kind: int
    values: NDArray[Any]
    masks: NDArray[np.int32]


@dataclass(frozen=True)
class Packed:
    """The packed tensors and the shape of the weight; 16-bit values are raw bits.

    weights: 0 for 16 bits, else the type of integers (`integer_packing`), whose slabs are words; scales: of int8.
    gated: gate and up both have the shape, and 8 rows of one follow 8 of the other. others: slabs of n:16, or of 6:8, by
    their number.
    """

    shape: tuple[int, int]
    panel_rows: int
    dense: NDArray[Any]
    sparse: NDArray[Any]
    meta: NDArray[np.int32]
    index: NDArray[np.int32]
    gated: bool = False
    others: tuple[OfSixteen, ...] = ()
    weights: int = 0
    scales: NDArray[np.float32] | None = None

    @property
    def panels(self) -> int:
        """Panels of all rows."""
        return -(-self.shape[0] * (1 + self.gated) // self.panel_rows)

    @property
    def kinds(self) -> tuple[int, ...]:
        """Numbers of the kinds in the index."""
        return (0, 1, *(one.kind for one in self.others))

    @property
    def counts(self) -> tuple[int, ...]:
        """Numbers of slabs by the number of their kind."""
        counts = [len(self.dense), len(self.sparse), *[0] * (len(KEPT) - 2)]
        for one in self.others:
            counts[one.kind] = len(one.values)
        return tuple(counts)

    @property
    def tensors(self) -> dict[int, tuple[NDArray[Any], NDArray[np.int32] | None]]:
        """Values and metadata or masks, by the number of their kind."""
        others = {one.kind: (one.values, one.masks) for one in self.others}
        return {0: (self.dense, None), 1: (self.sparse, self.meta), **others}


def prune(
    weight: NDArray[np.float32], kind: int, rng: np.random.Generator, weights: int = 0
) -> NDArray[np.float32]:
    """Zero random weights as slabs of a kind do. weight: `[rows, K]`, K a multiple of 64 for n:16; weights: their type."""
    if kind <= 1:
        return prune_2_of_4(weight, rng) if kind else weight
    rows, columns = weight.shape
    if weights == W8A8:
        eights = weight.reshape(rows, -1, 8)
        order = rng.random(eights.shape).argsort(-1)
        return np.where(order < 6, eights, 0).reshape(weight.shape).astype(np.float32)
    # Column 16·step + 8·i + 2·t + j is position (step, i, j) of the group of lane t.
    groups = weight.reshape(rows, columns // 64, 4, 2, 4, 2).transpose(0, 1, 4, 2, 3, 5).reshape(-1, 16)
    order = rng.random(groups.shape).argsort(-1)
    kept = np.where(order < KEPT[kind], groups, 0).reshape(rows, columns // 64, 4, 4, 2, 2)
    return kept.transpose(0, 1, 3, 4, 2, 5).reshape(rows, columns).astype(np.float32)


def prune_2_of_4(weight: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
    """Zero two random weights of every four along K."""
    groups = weight.reshape(len(weight), -1, 4)
    order = rng.random(groups.shape).argsort(-1)
    return np.where(order < 2, groups, 0).reshape(weight.shape).astype(np.float32)


def pack_slabs(
    bits: NDArray[np.uint16], grid: NDArray[Any], panel_rows: int, only_index: tuple[int, ...] = ()
) -> Packed:
    """Pack `bits` [N, K]. grid: number of each slab's kind, [panels, slabs]; what the slab holds must be of its kind.

    only_index: kinds whose slabs are in the index only.
    """
    panels, slabs = grid.shape
    padded = np.zeros((panels * panel_rows, slabs * 64), np.uint16)
    padded[: bits.shape[0], : bits.shape[1]] = bits
    kinds = (0, 1, *(kind for kind in range(2, len(KEPT)) if (grid == kind).any()))
    parts: dict[int, list[NDArray[np.uint16]]] = {kind: [] for kind in kinds}
    words: dict[int, list[NDArray[Any]]] = {kind: [] for kind in kinds}
    pointers, columns = {kind: [0] for kind in kinds}, {kind: [] for kind in kinds}
    for p in range(panels):
        for k in range(slabs):
            slab = padded[p * panel_rows : (p + 1) * panel_rows, k * 64 : (k + 1) * 64]
            kind = int(grid[p, k])
            columns[kind].append(k)
            if kind in only_index:
                continue
            if kind == 0:
                parts[kind].append(_fragments(slab))
            elif kind == 1:
                kept, nibbles = compress(slab)
                parts[kind].append(_fragments(kept))
                words[kind].append(_meta_words(nibbles).view(np.int32))
            else:
                values, masks = _pack_of_sixteen(slab, KEPT[kind])
                parts[kind].append(values)
                words[kind].append(masks)
        for kind in kinds:
            pointers[kind].append(len(columns[kind]))
    index = [*itertools.chain(*pointers.values()), *itertools.chain(*columns.values())]

    def values_of(kind: int) -> NDArray[np.uint16]:
        return np.array(parts[kind], np.uint16).reshape(-1, panel_rows * 4 * KEPT[kind])

    def words_of(kind: int) -> NDArray[np.int32]:
        return np.array(words[kind], np.int32).reshape(-1, panel_rows * 2)

    return Packed(
        bits.shape,
        panel_rows,
        values_of(0),
        values_of(1),
        words_of(1),
        np.array(index, np.int32),
        others=tuple(OfSixteen(kind, values_of(kind), words_of(kind)) for kind in kinds[2:]),
    )


def pack_gated(bits: NDArray[np.uint16], grid: NDArray[Any], panel_rows: int) -> Packed:
    """Pack gate and up `[2, out, in]`, out a multiple of 8. grid: as in `pack_slabs`, of the rows of both."""
    _, rows, _ = bits.shape
    return replace(pack_slabs(in_turns(bits), grid, panel_rows), shape=(rows, bits.shape[2]), gated=True)


def in_turns(both: NDArray[Any]) -> NDArray[Any]:
    """Rows of gate and up `[2, out, ...]` as W has them: 8 of the gate, 8 of the up, the next 8 of the gate, ..."""
    _, rows, *rest = both.shape
    return both.reshape(2, rows // 8, 8, *rest).swapaxes(0, 1).reshape(2 * rows, *rest)


def _pack_of_sixteen(slab: NDArray[np.uint16], count: int) -> tuple[NDArray[np.uint16], NDArray[np.int32]]:
    """Pack a slab [rows, 64] that keeps `count` of the 16 weights of a row that a lane has.

    Kept are nonzero weights, and then the first zeros. Returns values [rows * 4 * count], masks [rows * 2].
    """
    blocks = len(slab) // 16
    lanes, halves = np.arange(32)[:, None], np.arange(2)[None, :]
    rows = lanes // 4 + 8 * halves  # of a block, [lane, half]
    places = np.array(
        [[16 * step + 2 * t + i for step in range(4) for i in (0, 1, 8, 9)] for t in range(4)]
    )  # columns of the positions of lane 4g + t
    columns = places[np.arange(32) % 4][:, None, :]

    weights = slab.reshape(blocks, 16, 64)[:, rows[..., None], columns]  # [block, lane, half, position]
    first = (weights & 0x7FFF) != 0  # -0.0 is a zero
    taken = np.sort((~first).argsort(-1, kind="stable")[..., :count], -1)
    held = np.zeros(weights.shape, np.bool_)
    np.put_along_axis(held, taken, True, -1)
    assert (held | ~first).all(), f"not {count}:16"
    halfwords = (held.astype(np.uint32) << np.arange(16, dtype=np.uint32)).sum(-1, dtype=np.uint32)
    masks = halfwords[..., 0] | halfwords[..., 1] << np.uint32(16)
    values = np.take_along_axis(weights, taken, -1)
    values = np.where(values & 0x7FFF, values, 0)
    whole, planes = count // 8 * 8, []
    for begin in range(0, whole, 8):
        planes += [values[:, :, half, begin : begin + 8] for half in (0, 1)]
    if count % 8 >= 4:
        planes.append(values[..., whole : whole + 4])
    return np.concatenate([plane.reshape(-1) for plane in planes]), masks.reshape(-1).view(np.int32)


def _fragments(slab: NDArray[np.uint16]) -> NDArray[np.uint16]:
    """Order [rows, columns] as [k16][row block][lane][8]: a_i of lane 4g + t (PTX ISA 9.7.14.5.8)."""
    rows, columns = slab.shape
    out = np.empty((columns // 16, rows // 16, 32, 8), np.uint16)
    for lane in range(32):
        g, t = divmod(lane, 4)
        for i in range(8):
            row = g if i in (0, 1, 4, 5) else g + 8
            column = 2 * t + (i & 1) + (8 if i >= 4 else 0)
            out[:, :, lane, i] = slab[row::16, column::16].T
    return out.reshape(-1)


def compress(slab: NDArray[np.uint16]) -> tuple[NDArray[np.uint16], NDArray[np.uint32]]:
    """Return kept values [rows, K/2] and a nibble per group [rows, K/4]; -0.0 is a zero, missing values become zeros."""
    groups = slab.shape[1] // 4
    values = np.where(slab & 0x7FFF, slab, 0).reshape(len(slab), groups, 4)
    kept, nibbles = np.zeros((len(slab), groups, 2), np.uint16), np.full((len(slab), groups), 255, np.uint32)
    for first, second in itertools.combinations(range(4), 2):
        others = [i for i in range(4) if i not in (first, second)]
        fits = (nibbles == 255) & (values[..., others] == 0).all(-1)
        nibbles[fits] = first | second << 2
        kept[fits] = values[fits][:, [first, second]]
    assert (nibbles < 16).all(), "not 2:4"
    return kept.reshape(len(slab), -1), nibbles


def _meta_words(nibbles: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """Order [rows, 16 groups] as [row block][lane]: lane 4g + j holds columns 16j .. 16j + 15 of rows g and g + 8."""
    blocks = nibbles.reshape(-1, 16, 16)
    out = np.zeros((len(blocks), 32), np.uint32)
    for lane in range(32):
        g, j = divmod(lane, 4)
        for half, row in enumerate((g, g + 8)):
            for n in range(4):
                out[:, lane] |= blocks[:, row, j * 4 + n] << np.uint32(16 * half + 4 * n)
    return out.reshape(-1)
