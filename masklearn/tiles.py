"""Tile algebra: the grid of tiles over a weight `[N, K]`, ragged at the last row and column."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["GROUP", "check_tile", "expand_tiles", "grid_shape", "sparse_groups", "tile_sums", "tile_weights"]

GROUP = 4  # consecutive k that share one 2:4 pattern

Shape = tuple[int, int]


def check_tile(shape: Shape, tile: Shape) -> None:
    """Raise ValueError unless `tile` (rows, cols) can cover `shape` (N, K) without cutting a group of 4."""
    rows, cols = tile
    if rows < 1 or cols < GROUP or cols % GROUP:
        raise ValueError(f"tile {rows}x{cols}: rows must be at least 1, columns a multiple of {GROUP}")
    if min(shape) < 1 or shape[1] % GROUP:
        raise ValueError(f"shape {list(shape)}: K must be a positive multiple of {GROUP}")


def grid_shape(shape: Shape, tile: Shape) -> Shape:
    """Tiles along N and K: `[ceil(N/rows), ceil(K/cols)]`."""
    return -(-shape[0] // tile[0]), -(-shape[1] // tile[1])


def tile_weights(shape: Shape, tile: Shape) -> NDArray[np.int64]:
    """Weights in each tile, `[grid]`; ragged tiles hold fewer."""
    return np.outer(_extents(shape[0], tile[0]), _extents(shape[1], tile[1]))


def sparse_groups(tiles: NDArray[np.bool_], shape: Shape, tile: Shape) -> int:
    """Groups of 4 that lie in sparse tiles."""
    return int(tile_weights(shape, tile)[tiles].sum()) // GROUP


def expand_tiles(tiles: NDArray[np.bool_], shape: Shape, tile: Shape) -> NDArray[np.bool_]:
    """The tile map at the resolution of groups: `[grid]` to `[N, K/4]`."""
    per_row = np.repeat(tiles, _extents(shape[1], tile[1]) // GROUP, axis=1)
    return np.repeat(per_row, _extents(shape[0], tile[0]), axis=0)


def tile_sums(groups: NDArray[Any], tile: Shape) -> NDArray[np.float32]:
    """Sum a value per group of 4 over each tile: `[N, K/4]` to `[grid]`, accumulated in fp64."""
    columns = np.arange(0, groups.shape[1], tile[1] // GROUP)
    rows = np.arange(0, groups.shape[0], tile[0])
    along_k = np.add.reduceat(groups, columns, axis=1, dtype=np.float64)
    return np.add.reduceat(along_k, rows, axis=0).astype(np.float32)


def _extents(size: int, step: int) -> NDArray[np.int64]:
    """Lengths of the pieces `size` falls into: all `step`, the last one what is left."""
    starts = np.arange(0, size, step, dtype=np.int64)
    return np.minimum(starts + step, size) - starts
