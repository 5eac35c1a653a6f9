"""Weight and hybrid mask ↔ the packed tensors of PatchLinear; the inverse is exact.

A linear `W: [N, K]` is cut into panels of `panel_rows` output rows, a panel into slabs of 64 along K. N and K are
zero-padded to whole slabs here and nowhere else. A slab whose every weight lies in a sparse tile is stored 2:4
(two kept values and two 2-bit positions per group of four), any other slab densely, pruned weights as +0.

Inside a slab the values lie in the order in which the lanes of a warp hold them as operand A of the tensor-core
instruction, so that a lane's fragment is one 16-byte load. With lane = 4 g + t:

    dense  [k16: 4][row block: PR/16][g: 8][t: 4][k half: 2][row half: 2][pair: 2]    mma.m16n8k16
    sparse [k32: 2][row block: PR/16][g: 8][t: 4][k half: 2][row half: 2][pair: 2]    mma.sp.m16n8k32, kept values
    meta   [row block: PR/16][g: 8][t: 4]   low half word: row g, high: row g + 8; 16 columns each, a nibble a group

(PTX ISA 9.7.14.5.8 and 9.7.14.6.2.2, figures 120-122.) A pair of neighbouring 16-bit values moves as one 32-bit word.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from masklearn.maskset import LinearMask
from masklearn.patterns import KEPT_POSITIONS
from masklearn.tiles import expand_tiles

__all__ = ["SLAB_K", "PackedLinear", "choose_panel_rows", "csr_index", "pack", "sparse_slabs", "unpack"]

SLAB_K = 64
_CHUNK_WEIGHTS = 1 << 22  # panels are packed in chunks of about this many weights: bounds the temporaries
_WIDE_PANEL, _NARROW_PANEL = 128, 64

_FIRST, _SECOND = np.array(KEPT_POSITIONS, np.uint64).T
_NIBBLE = (_FIRST | _SECOND << np.uint64(2)).astype(np.uint32)
_PATTERN_OF_NIBBLE = np.full(16, 255, np.uint8)
_PATTERN_OF_NIBBLE[_NIBBLE] = np.arange(6)
_LOW16 = np.uint64(0xFFFF)


@dataclass(frozen=True)
class PackedLinear:
    """The packed tensors of one linear, 16-bit values as raw bits.

    dense: uint16 `[nD, PR·64]`, sparse: uint16 `[nS, PR·32]`, meta: int32 `[nS, PR·2]`,
    index: int32 `[2·(P+1) + nD + nS]` = dense_ptr ++ sparse_ptr ++ dense_k ++ sparse_k, P = ceil(N/PR) panels:
    panel p owns the rows `dense_ptr[p] … dense_ptr[p+1]-1` of `dense`, and `dense_k` holds each slab's k/64.
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
        """Grid `[panels, slabs along K]`, True where the slab is stored 2:4; raises if a slab is not stored once."""
        panels, slabs = _grid(self.shape, self.panel_rows)
        grid = np.zeros((panels, slabs), np.int8)
        for rows, columns, mark in (*self._positions("dense", 1), *self._positions("sparse", 2)):
            np.add.at(grid, (rows, columns), mark)
        if not np.isin(grid, (1, 2)).all():
            raise ValueError("a slab is stored twice or not at all")
        return np.equal(grid, 2)

    def _positions(self, kind: str, mark: int) -> list[tuple[NDArray[np.int64], NDArray[np.int32], int]]:
        panels = _grid(self.shape, self.panel_rows)[0]
        n_dense = len(self.dense)
        ptr = self.index[: panels + 1] if kind == "dense" else self.index[panels + 1 : 2 * (panels + 1)]
        start = 2 * (panels + 1) + (0 if kind == "dense" else n_dense)
        count = n_dense if kind == "dense" else len(self.sparse)
        return [(np.repeat(np.arange(panels), np.diff(ptr)), self.index[start : start + count], mark)]


def choose_panel_rows(shape: tuple[int, int], tile: tuple[int, int]) -> int:
    """Panel height of a linear: 128 rows, or 64 where 128 would split tiles or pad more than 5 % further.

    A tile whose height is no multiple of 128 leaves half-sparse panels of 128, which must be stored densely.
    """
    rows = shape[0]
    wide, narrow = (-(-rows // pr) * pr for pr in (_WIDE_PANEL, _NARROW_PANEL))
    if tile[0] % _WIDE_PANEL and tile[0] < rows:
        return _NARROW_PANEL
    return _NARROW_PANEL if wide > narrow * 1.05 else _WIDE_PANEL


def pack(weight: NDArray[np.uint16], mask: LinearMask, panel_rows: int) -> PackedLinear:
    """Pack the bits of a 16-bit weight `[N, K]` under its hybrid mask.

    Raises ValueError when weight and mask disagree in shape.
    """
    if weight.shape != mask.shape:
        raise ValueError(f"weight {weight.shape} and mask {mask.shape} differ")
    n_panels, n_slabs = _grid(mask.shape, panel_rows)
    is_sparse = sparse_slabs(mask, panel_rows)
    patterns, in_sparse_tile = _pattern_grid(mask)
    dense, sparse, meta = [], [], []
    step = max(1, _CHUNK_WEIGHTS // (panel_rows * n_slabs * SLAB_K))
    for first in range(0, n_panels, step):
        panels = slice(first, min(first + step, n_panels))
        rows = slice(panels.start * panel_rows, panels.stop * panel_rows)
        words = _words(weight[rows], patterns[rows], in_sparse_tile[rows])
        slabs = _slabs(words, panel_rows, n_slabs)
        slab_patterns = _slabs(patterns[rows], panel_rows, n_slabs)
        chosen = is_sparse[panels]
        dense.append(_dense_fragments(slabs[~chosen]))
        sparse.append(_sparse_fragments(slabs[chosen], slab_patterns[chosen]))
        meta.append(_meta_words(slab_patterns[chosen]))
    return PackedLinear(
        mask.shape,
        panel_rows,
        np.concatenate(dense),
        np.concatenate(sparse),
        np.concatenate(meta),
        csr_index(is_sparse),
    )


def unpack(packed: PackedLinear) -> NDArray[np.uint16]:
    """The exact inverse: bits of `W∘M: [N, K]`. Raises ValueError on an invalid index or metadata."""
    rows, columns = packed.shape
    is_sparse = packed.slab_is_sparse()
    n_panels, n_slabs = is_sparse.shape
    pr = packed.panel_rows
    out = np.empty((n_panels, n_slabs, pr, 16), np.uint64)
    out[~is_sparse] = _dense_words(packed.dense, pr)
    out[is_sparse] = _sparse_words(packed.sparse, packed.meta, pr)
    whole = out.transpose(0, 2, 1, 3).reshape(n_panels * pr, n_slabs * 16)
    return np.ascontiguousarray(whole).view(np.uint16)[:rows, :columns].copy()


def _grid(shape: tuple[int, int], panel_rows: int) -> tuple[int, int]:
    return -(-shape[0] // panel_rows), -(-shape[1] // SLAB_K)


def sparse_slabs(mask: LinearMask, panel_rows: int) -> NDArray[np.bool_]:
    """Which slabs `[panels, slabs]` lie in sparse tiles alone; a sparse tile may always be treated as dense."""
    rows, columns = mask.shape
    by_row = _all_between(mask.tiles, mask.tile[0], rows, panel_rows, axis=0)
    return _all_between(by_row, mask.tile[1], columns, SLAB_K, axis=1)


def _all_between(tiles: NDArray[np.bool_], tile: int, size: int, step: int, axis: int) -> NDArray[np.bool_]:
    """AND over the tiles that each run of `step` along `axis` (of `size` elements) touches."""
    cells = []
    for start in range(0, size, step):
        touched = np.arange(start // tile, (min(start + step, size) - 1) // tile + 1)
        cells.append(tiles.take(touched, axis=axis).all(axis=axis))
    return np.stack(cells, axis=axis)


def _pattern_grid(mask: LinearMask) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Pattern of every group `[N, K/4]` (0 where dense) and whether the group lies in a sparse tile."""
    rows, columns = mask.shape
    covered = expand_tiles(mask.tiles, mask.shape, mask.tile)
    patterns = np.zeros((rows, columns // 4), np.uint8)
    patterns[covered] = mask.pattern
    return patterns, covered


def _words(
    weight: NDArray[np.uint16], patterns: NDArray[np.uint8], covered: NDArray[np.bool_]
) -> NDArray[np.uint64]:
    """Groups of four 16-bit values as 64-bit words `[rows, K/4]`, pruned positions zero."""
    words = np.ascontiguousarray(weight).view(np.uint64)
    keep = (_LOW16 << (_FIRST * np.uint64(16))) | (_LOW16 << (_SECOND * np.uint64(16)))
    return np.where(covered, words & keep[patterns], words)


def _slabs(groups: NDArray[Any], panel_rows: int, n_slabs: int) -> NDArray[Any]:
    """`[rows, K/4]`, zero-padded to whole slabs, as `[panels, slabs, PR, 16]`."""
    rows, columns = groups.shape
    panels = -(-rows // panel_rows)
    extra = panels * panel_rows - rows, n_slabs * 16 - columns
    padded = np.pad(groups, ((0, extra[0]), (0, extra[1]))) if any(extra) else groups
    return padded.reshape(panels, panel_rows, n_slabs, 16).transpose(0, 2, 1, 3)


def _dense_fragments(slabs: NDArray[np.uint64]) -> NDArray[np.uint16]:
    """`[n, PR, 16]` words of four values → `[n, PR·64]` in fragment order."""
    n, pr, _ = slabs.shape
    pairs = np.ascontiguousarray(slabs).view(np.uint32).reshape(n, pr // 16, 2, 8, 4, 2, 4)
    order = pairs.transpose(0, 4, 1, 3, 6, 5, 2)  # n, k16, row block, g, t, k half, row half
    return np.ascontiguousarray(order).view(np.uint16).reshape(n, pr * 64)


def _dense_words(dense: NDArray[np.uint16], pr: int) -> NDArray[np.uint64]:
    n = len(dense)
    pairs = np.ascontiguousarray(dense).view(np.uint32).reshape(n, 4, pr // 16, 8, 4, 2, 2)
    order = pairs.transpose(0, 2, 6, 3, 1, 5, 4)
    return np.ascontiguousarray(order).reshape(n, pr, 32).view(np.uint64)


def _sparse_fragments(slabs: NDArray[np.uint64], patterns: NDArray[np.uint8]) -> NDArray[np.uint16]:
    """`[n, PR, 16]` words and their patterns → kept values `[n, PR·32]` in fragment order."""
    n, pr, _ = slabs.shape
    first = (slabs >> (_FIRST * np.uint64(16))[patterns]) & _LOW16
    second = (slabs >> (_SECOND * np.uint64(16))[patterns]) & _LOW16
    pairs = (first | second << np.uint64(16)).astype(np.uint32).reshape(n, pr // 16, 2, 8, 2, 2, 4)
    order = pairs.transpose(0, 4, 1, 3, 6, 5, 2)  # n, k32, row block, g, t, k half, row half
    return np.ascontiguousarray(order).view(np.uint16).reshape(n, pr * 32)


def _sparse_words(sparse: NDArray[np.uint16], meta: NDArray[np.int32], pr: int) -> NDArray[np.uint64]:
    n = len(sparse)
    patterns = _patterns_of_meta(meta, pr)
    pairs = np.ascontiguousarray(sparse).view(np.uint32).reshape(n, 2, pr // 16, 8, 4, 2, 2)
    kept = np.ascontiguousarray(pairs.transpose(0, 2, 6, 3, 1, 5, 4)).reshape(n, pr, 16).astype(np.uint64)
    first = (kept & _LOW16) << (_FIRST * np.uint64(16))[patterns]
    second = (kept >> np.uint64(16)) << (_SECOND * np.uint64(16))[patterns]
    return np.asarray(first | second, np.uint64)


def _meta_words(patterns: NDArray[np.uint8]) -> NDArray[np.int32]:
    """Patterns `[n, PR, 16]` → metadata words `[n, PR·2]`."""
    n, pr, _ = patterns.shape
    shifts = np.arange(0, 16, 4, dtype=np.uint32)
    half = np.bitwise_or.reduce(_NIBBLE[patterns].reshape(n, pr, 4, 4) << shifts, axis=-1)
    half = half.reshape(n, pr // 16, 2, 8, 4)  # row half, g, t
    words = half[:, :, 0] | half[:, :, 1] << np.uint32(16)
    return np.ascontiguousarray(words).view(np.int32).reshape(n, pr * 2)


def _patterns_of_meta(meta: NDArray[np.int32], pr: int) -> NDArray[np.uint8]:
    n = len(meta)
    words = np.ascontiguousarray(meta).view(np.uint32).reshape(n, pr // 16, 1, 8, 4, 1)
    half = words >> np.array([0, 16], np.uint32).reshape(1, 1, 2, 1, 1, 1)
    nibbles = (half >> np.arange(0, 16, 4, dtype=np.uint32)) & np.uint32(15)
    patterns: NDArray[np.uint8] = _PATTERN_OF_NIBBLE[nibbles].reshape(n, pr, 16)
    if (patterns == 255).any():
        raise ValueError("metadata holds a pair of positions that is not ascending")
    return patterns


def csr_index(is_sparse: NDArray[np.bool_]) -> NDArray[np.int32]:
    """The index of a linear from its grid `[panels, slabs]`: dense_ptr ++ sparse_ptr ++ dense_k ++ sparse_k."""
    pointers, columns = [], []
    for chosen in (~is_sparse, is_sparse):
        pointers.append(np.concatenate([[0], np.cumsum(chosen.sum(axis=1))]))
        columns.append(np.nonzero(chosen)[1])
    return np.concatenate([*pointers, *columns]).astype(np.int32)
