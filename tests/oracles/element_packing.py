"""An independent packer that writes the format element by element, with the names of the PTX ISA's figures.

It shares no code with `patch_compile.packing.format`, so the kernels are held to the written format and not to one
program's reading of it. It needs only numpy.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

__all__ = ["Packed", "in_fragments", "pack_gated", "pack_of_sixteen", "pack_slabs", "prune_2_of_4"]


@dataclass(frozen=True)
class Packed:
    """The four packed tensors and the shape of the weight; 16-bit values are raw bits.

    gated: the shape is that of gate and up alike, and their panels alternate.
    """

    shape: tuple[int, int]
    panel_rows: int
    dense: NDArray[np.uint16]
    sparse: NDArray[np.uint16]
    meta: NDArray[np.int32]
    index: NDArray[np.int32]
    gated: bool = False


def prune_2_of_4(weight: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
    """Zero two random weights of every four along K."""
    groups = weight.reshape(len(weight), -1, 4)
    order = rng.random(groups.shape).argsort(-1)
    return np.where(order < 2, groups, 0).reshape(weight.shape).astype(np.float32)


def pack_slabs(bits: NDArray[np.uint16], sparse: NDArray[np.bool_], panel_rows: int) -> Packed:
    """Pack `bits` [N, K]; slabs that are True in `sparse` [panels, slabs] must hold 2:4 and are stored 2:4."""
    panels, slabs = sparse.shape
    padded = np.zeros((panels * panel_rows, slabs * 64), np.uint16)
    padded[: bits.shape[0], : bits.shape[1]] = bits
    parts: dict[bool, list[NDArray[np.uint16]]] = {False: [], True: []}
    words, pointers, columns = [], {False: [0], True: [0]}, {False: [], True: []}
    for p in range(panels):
        for k in range(slabs):
            slab = padded[p * panel_rows : (p + 1) * panel_rows, k * 64 : (k + 1) * 64]
            kind = bool(sparse[p, k])
            columns[kind].append(k)
            if kind:
                kept, nibbles = _compress(slab)
                parts[True].append(_fragments(kept))
                words.append(_meta_words(nibbles))
            else:
                parts[False].append(_fragments(slab))
        for kind in (False, True):
            pointers[kind].append(len(columns[kind]))
    index = pointers[False] + pointers[True] + columns[False] + columns[True]
    return Packed(
        bits.shape,
        panel_rows,
        np.array(parts[False], np.uint16).reshape(-1, panel_rows * 64),
        np.array(parts[True], np.uint16).reshape(-1, panel_rows * 32),
        np.array(words, np.uint32).reshape(-1, panel_rows * 2).view(np.int32),
        np.array(index, np.int32),
    )


def pack_gated(bits: NDArray[np.uint16], sparse: NDArray[np.bool_], panel_rows: int) -> Packed:
    """Pack gate and up `[2, out, in]` with their maps of 2:4 slabs `[2, panels, slabs]`."""
    _, rows, columns = bits.shape
    panels = sparse.shape[1]
    padded = np.pad(bits, ((0, 0), (0, panels * panel_rows - rows), (0, 0)))
    alternating = padded.reshape(2, panels, panel_rows, columns).swapaxes(0, 1).reshape(-1, columns)
    packed = pack_slabs(alternating, sparse.swapaxes(0, 1).reshape(2 * panels, -1), panel_rows)
    return replace(packed, shape=(rows, columns), gated=True)


def pack_of_sixteen(
    slab: NDArray[np.uint16], kept: NDArray[np.bool_], count: int
) -> tuple[NDArray[np.uint16], NDArray[np.int32]]:
    """Pack a slab [rows, 64] that keeps `count` of the 16 weights of a row that a lane has.

    Returns values [rows * 4 * count] and masks [rows * 2].
    """
    blocks = len(slab) // 16
    values, masks = np.zeros(len(slab) * 4 * count, np.uint16), np.zeros((blocks, 32), np.uint32)
    fours = count // 8 * 2 * blocks * 256  # first value of the plane of fours, and of twos
    twos = fours + (blocks * 256 if count % 8 >= 4 else 0)
    for block, lane, half in itertools.product(range(blocks), range(32), range(2)):
        g, t = divmod(lane, 4)
        row = 16 * block + g + 8 * half
        places = [16 * step + 2 * t + i for step in range(4) for i in (0, 1, 8, 9)]
        taken = [p for p, column in enumerate(places) if kept[row, column]]
        assert len(taken) == count
        masks[block, lane] |= np.uint32(sum(1 << p for p in taken) << 16 * half)
        for i, p in enumerate(taken):
            if i < count // 8 * 8:
                at = ((i // 8 * 2 + half) * blocks + block) * 256 + lane * 8 + i % 8
            elif count % 4 == 2 and i >= count - 2:
                at = twos + block * 128 + lane * 4 + half * 2 + i - (count - 2)
            else:
                at = fours + block * 256 + lane * 8 + half * 4 + i % 8
            values[at] = slab[row, places[p]]
    return values, masks.reshape(-1).view(np.int32)


def in_fragments(slab: NDArray[np.uint16]) -> NDArray[np.uint16]:
    """Order a slab [rows, 64] as a dense slab is stored."""
    return _fragments(slab)


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


def _compress(slab: NDArray[np.uint16]) -> tuple[NDArray[np.uint16], NDArray[np.uint32]]:
    """Return kept values [rows, 32] and a nibble per group [rows, 16]; -0.0 is a zero, missing values become zeros."""
    values = np.where(slab & 0x7FFF, slab, 0).reshape(len(slab), 16, 4)
    kept, nibbles = np.zeros((len(slab), 16, 2), np.uint16), np.full((len(slab), 16), 255, np.uint32)
    for first, second in itertools.combinations(range(4), 2):
        others = [i for i in range(4) if i not in (first, second)]
        fits = (nibbles == 255) & (values[..., others] == 0).all(-1)
        nibbles[fits] = first | second << 2
        kept[fits] = values[fits][:, [first, second]]
    assert (nibbles < 16).all(), "not 2:4"
    return kept.reshape(len(slab), 32), nibbles


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
