"""Packs a weight and its hybrid mask into the tensors of PatchLinear, and unpacks them exactly.

A linear `W: [N, K]` is cut into panels of `panel_rows` output rows, and a panel into slabs of 64 along K. N and K are
zero-padded to whole slabs here and nowhere else. A slab is stored as 2:4 (two kept values and two 2-bit positions per
group of four) if all its weights lie in sparse tiles. Any other slab is stored densely, with pruned weights as +0.

The values of a slab are in the order in which the lanes of a warp hold them as operand A of the tensor-core
instruction, so that a lane's fragment is one 16-byte load. With lane = 4 g + t:

    dense  [k16: 4][row block: PR/16][g: 8][t: 4][k half: 2][row half: 2][pair: 2]    mma.m16n8k16
    sparse [k32: 2][row block: PR/16][g: 8][t: 4][k half: 2][row half: 2][pair: 2]    mma.sp.m16n8k32, kept values
    meta   [row block: PR/16][g: 8][t: 4]   low half word: row g, high: row g + 8; 16 columns each, a nibble a group

(PTX ISA 9.7.14.5.8 and 9.7.14.6.2.2, figures 120-122.) A pair of neighbouring 16-bit values moves as one 32-bit word.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from masklearn.masks.kinds.table import DENSE, TWO_FOUR
from masklearn.masks.linear_mask import LinearMask
from masklearn.masks.tiles import expand_tiles
from patch_compile.packing.index import csr_index, index_fault

__all__ = [
    "PACKED",
    "SLAB_K",
    "PackedLinear",
    "choose_panel_rows",
    "count_wrong",
    "grid_together",
    "pack",
    "pack_together",
    "sparse_slabs",
    "unpack",
]

SLAB_K = 64
PACKED = (DENSE, TWO_FOUR)
"""Kinds of tiles that slabs hold."""

_WIDE_PANEL, _NARROW_PANEL = 128, 64


@dataclass(frozen=True)
class PackedLinear:
    """Packed tensors of one linear; 16-bit values are raw bits.

    dense: uint16 `[nD, PR·64]`; sparse: uint16 `[nS, PR·32]`; meta: int32 `[nS, PR·2]`;
    index: int32 `[2·(P+1) + nD + nS]` as in `packing/index.py`, with P = ceil(N/PR) panels.
    """

    shape: tuple[int, int]
    panel_rows: int
    dense: NDArray[np.uint16]
    sparse: NDArray[np.uint16]
    meta: NDArray[np.int32]
    index: NDArray[np.int32]

    @property
    def nbytes(self) -> int:
        """Bytes of all packed tensors."""
        return self.dense.nbytes + self.sparse.nbytes + self.meta.nbytes + self.index.nbytes

    def slab_is_sparse(self) -> NDArray[np.bool_]:
        """Returns a grid `[panels, slabs along K]`, True for slabs stored as 2:4. Raises ValueError as `places`."""
        return self.places()[0]

    def places(self) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
        """Returns two grids `[panels, slabs along K]`: `slab_is_sparse`, and the slab's row in `dense` or in `sparse`.

        Raises ValueError if the index lies: if it leads to no slab, or a slab is stored twice or not at all.
        """
        panels, slabs_along_k = _grid(self.shape, self.panel_rows)
        fault = index_fault(self.index, (panels, slabs_along_k), len(self.dense), len(self.sparse))
        if fault:
            raise ValueError(fault)
        is_sparse = np.zeros((panels, slabs_along_k), np.bool_)
        slots = np.zeros((panels, slabs_along_k), np.int64)
        pointers = self.index[: 2 * (panels + 1)].reshape(2, -1)
        columns = np.split(self.index[2 * (panels + 1) :], [len(self.dense)])
        for kind in (0, 1):
            at = np.repeat(np.arange(panels), np.diff(pointers[kind])), columns[kind]
            is_sparse[at] = kind == 1
            slots[at] = np.arange(len(columns[kind]))
        return is_sparse, slots


def choose_panel_rows(shape: tuple[int, int], tile: tuple[int, int]) -> int:
    """Returns the panel height of a linear: 128 rows, or 64 if 128 would split tiles or add over 5 % of padding.

    With a tile height that is no multiple of 128, panels of 128 rows could be half sparse and would be stored densely.
    """
    rows = shape[0]
    wide, narrow = (-(-rows // pr) * pr for pr in (_WIDE_PANEL, _NARROW_PANEL))
    if tile[0] % _WIDE_PANEL and tile[0] < rows:
        return _NARROW_PANEL
    return _NARROW_PANEL if wide > narrow * 1.05 else _WIDE_PANEL


def pack(weight: NDArray[np.uint16], mask: LinearMask, panel_rows: int) -> PackedLinear:
    """Pack the bits of a 16-bit weight `[N, K]` under its hybrid mask.

    Raises ValueError if weight and mask differ in shape.
    """
    panels = _grid(mask.shape, panel_rows)[0]
    packed = pack_together([(weight, mask)], panel_rows, [np.arange(panels)])
    return replace(packed, shape=mask.shape)


def pack_together(
    linears: Sequence[tuple[NDArray[np.uint16], LinearMask]],
    panel_rows: int,
    panels: Sequence[NDArray[np.int64]],
) -> PackedLinear:
    """Pack linears of equal K as one linear `[all panels · panel_rows, K]`.

    linears: weight and mask of each; panels: for each linear, the panels of the whole that hold it, in order.

    Raises ValueError if a weight and its mask differ in shape, or if the linears differ in K.
    """
    from patch_compile.packing import slabs

    for weight, mask in linears:
        if weight.shape != mask.shape:
            raise ValueError(f"weight {weight.shape} and mask {mask.shape} differ")
        if mask.shape[1] != linears[0][1].shape[1]:
            raise ValueError(
                f"linears of K = {linears[0][1].shape[1]} and {mask.shape[1]} can't be packed as one"
            )
    grid = grid_together([sparse_slabs(mask, panel_rows) for _, mask in linears], panels)
    slots, sparse_count = _slots(grid), int(grid.sum())
    dense = np.zeros((grid.size - sparse_count, panel_rows * SLAB_K // 2), np.uint32)
    sparse = np.zeros((sparse_count, panel_rows * SLAB_K // 4), np.uint32)
    meta = np.zeros((sparse_count, panel_rows * 2), np.uint32)
    for (weight, mask), own in zip(linears, panels, strict=True):

        def pack_one(words: NDArray[np.uint32], codes: NDArray[np.uint8], panel: int) -> None:
            slabs.pack_panel(words, codes, grid[panel], slots[panel], dense, sparse, meta)

        _for_each_panel(weight, mask, panel_rows, own, pack_one)
    return PackedLinear(
        (len(grid) * panel_rows, linears[0][1].shape[1]),
        panel_rows,
        dense.view(np.uint16),
        sparse.view(np.uint16),
        meta.view(np.int32),
        csr_index(grid),
    )


def grid_together(
    grids: Sequence[NDArray[np.bool_]], panels: Sequence[NDArray[np.int64]]
) -> NDArray[np.bool_]:
    """Returns the grid of 2:4 slabs of linears packed together.

    grids: grid `[panels, slabs]` of each linear; panels: as in `pack_together`.
    """
    together = np.concatenate(grids)
    together[np.concatenate(panels)] = np.concatenate(grids)
    return together


def unpack(packed: PackedLinear) -> NDArray[np.uint16]:
    """Returns the bits of `W∘M: [N, K]`: the exact inverse of `pack`. Raises ValueError for invalid index or metadata."""
    rows, columns = packed.shape
    words = np.empty((rows, columns // 2), np.uint32)
    grid, slots = packed.places()
    for panel in range(len(grid)):
        own = slice(panel * packed.panel_rows, (panel + 1) * packed.panel_rows)
        _unpack_panel(packed, grid[panel], slots[panel], words[own])
    return words.view(np.uint16)


def count_wrong(
    packed: PackedLinear, weight: NDArray[np.uint16], mask: LinearMask, panels: NDArray[np.int64]
) -> int:
    """Returns the number of weights of a linear whose decoded bits differ from those of `W∘M`.

    panels: panels of `packed` that hold the linear. Raises ValueError for an invalid index or metadata.
    """
    from patch_compile.packing import slabs

    grid, slots = packed.places()
    wrong = np.zeros(len(grid), np.int64)

    def count_one(words: NDArray[np.uint32], codes: NDArray[np.uint8], panel: int) -> None:
        decoded = np.empty_like(words)
        _unpack_panel(packed, grid[panel], slots[panel], decoded)
        wrong[panel] = slabs.count_differences(decoded, words, codes)

    _for_each_panel(weight, mask, packed.panel_rows, panels, count_one)
    return int(wrong.sum())


def _unpack_panel(
    packed: PackedLinear, is_sparse: NDArray[np.bool_], slots: NDArray[np.int64], words: NDArray[np.uint32]
) -> None:
    from patch_compile.packing import slabs

    stored = packed.dense.view(np.uint32), packed.sparse.view(np.uint32), packed.meta.view(np.uint32)
    if slabs.unpack_panel(words, is_sparse, slots, *stored) == slabs.BAD_METADATA:
        raise ValueError("metadata holds a pair of positions that is not ascending")


def _for_each_panel(
    weight: NDArray[np.uint16],
    mask: LinearMask,
    panel_rows: int,
    panels: NDArray[np.int64],
    work: Callable[[NDArray[np.uint32], NDArray[np.uint8], int], None],
) -> None:
    """Call `work(words, codes of the groups, number in the whole)` for each panel, in threads on all cores.

    Threads suffice: the loops of `slabs` release Python's global lock.
    """
    from patch_compile.packing import slabs

    words = np.ascontiguousarray(weight).view(np.uint32)
    covered = expand_tiles(mask.tiles, mask.shape, mask.tile)
    starts = np.concatenate([[0], np.cumsum(covered.sum(axis=1))])

    def one(number: int) -> None:
        rows = slice(number * panel_rows, (number + 1) * panel_rows)
        codes = slabs.panel_codes(mask.pattern, covered[rows], starts[rows])
        work(words[rows], codes, int(panels[number]))

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        deque(pool.map(one, range(len(panels))), maxlen=0)


def _slots(grid: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Returns the number of each slab `[panels, slabs]` among the slabs of its kind (dense or 2:4)."""
    return np.where(grid, np.cumsum(grid).reshape(grid.shape), np.cumsum(~grid).reshape(grid.shape)) - 1


def _grid(shape: tuple[int, int], panel_rows: int) -> tuple[int, int]:
    return -(-shape[0] // panel_rows), -(-shape[1] // SLAB_K)


def sparse_slabs(mask: LinearMask, panel_rows: int) -> NDArray[np.bool_]:
    """Returns a grid `[panels, slabs]`, True for slabs that lie in sparse tiles only.

    A slab that also touches a dense tile is stored densely, which is always valid for weights of a sparse tile.
    """
    rows, columns = mask.shape
    by_row = _all_between(mask.tiles, mask.tile[0], rows, panel_rows, axis=0)
    return _all_between(by_row, mask.tile[1], columns, SLAB_K, axis=1)


def _all_between(tiles: NDArray[np.bool_], tile: int, size: int, step: int, axis: int) -> NDArray[np.bool_]:
    """Returns, for each run of `step` elements along `axis` (of `size` elements), the AND of the tiles it touches."""
    cells = []
    for start in range(0, size, step):
        touched = np.arange(start // tile, (min(start + step, size) - 1) // tile + 1)
        cells.append(tiles.take(touched, axis=axis).all(axis=axis))
    return np.stack(cells, axis=axis)
