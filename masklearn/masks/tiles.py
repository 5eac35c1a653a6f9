"""Tile algebra: the grid of tiles over a weight `[N, K]`. Tiles in the last row and column may be ragged."""

from collections.abc import Mapping
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

GROUP = 4  # consecutive k that share a 2:4 pattern
WHOLE = 1 << 20  # more rows and columns than any linear has: a single ragged tile covers them all

Shape = tuple[int, int]
_T = TypeVar("_T", bound=np.generic)


def parse_tile(text: str) -> tuple[int, int]:
    """Returns (rows, columns) of a tile size such as `128x128` or `128x*`, where `*` stands for `WHOLE`.

    Raises a ValueError of one line if the text is not a tile size.
    """
    parts = text.lower().split("x")
    sizes = [
        WHOLE if part == "*" else int(part) if part.isascii() and part.isdigit() else 0 for part in parts
    ]
    if len(sizes) != 2 or not all(sizes) or sizes[1] % GROUP:
        raise ValueError(
            f"{text!r} is not a tile. A tile is ROWSxCOLS with COLS a multiple of 4, e.g. 128x128, or 128x* for all columns."
        )
    return sizes[0], sizes[1]


def spell_tile(tile: tuple[int, int]) -> str:
    """Inverse of `parse_tile`."""
    return "x".join("*" if size == WHOLE else str(size) for size in tile)


def check_tile(shape: Shape, tile: Shape) -> None:
    """Raises ValueError unless `tile` (rows, cols) can cover `shape` (N, K) without cutting a group of 4."""
    rows, cols = tile
    if rows < 1 or cols < GROUP or cols % GROUP:
        raise ValueError(f"tile {rows}x{cols}: rows must be at least 1, columns a multiple of {GROUP}")
    if min(shape) < 1 or shape[1] % GROUP:
        raise ValueError(f"shape {list(shape)}: K must be a positive multiple of {GROUP}")


def grid_shape(shape: Shape, tile: Shape) -> Shape:
    """Returns the number of tiles along N and K: (ceil(N/rows), ceil(K/cols))."""
    return -(-shape[0] // tile[0]), -(-shape[1] // tile[1])


def tile_weights(shape: Shape, tile: Shape) -> NDArray[np.int64]:
    """Returns the number of weights in each tile, `[grid]`; ragged tiles have fewer."""
    return np.outer(_extents(shape[0], tile[0]), _extents(shape[1], tile[1]))


def weights_of_tiles(shapes: Mapping[str, Shape], tile: Shape) -> dict[str, NDArray[np.int64]]:
    """Returns the number of weights in each tile, `[grid]` by linear; shapes: (N, K) by linear."""
    return {name: tile_weights(shape, tile) for name, shape in shapes.items()}


def sparse_groups(tiles: NDArray[np.bool_], shape: Shape, tile: Shape) -> int:
    """Returns the number of groups of 4 in sparse tiles."""
    return int(tile_weights(shape, tile)[tiles].sum()) // GROUP


def expand_tiles(tiles: NDArray[_T], shape: Shape, tile: Shape, group: int = GROUP) -> NDArray[_T]:
    """Expand values of tiles to values of groups: `[grid]` to `[N, K/group]`."""
    per_row = np.repeat(tiles, _extents(shape[1], tile[1]) // group, axis=1)
    return np.repeat(per_row, _extents(shape[0], tile[0]), axis=0)


def tile_sums(groups: NDArray[Any], tile: Shape) -> NDArray[np.float32]:
    """Sum values of groups of 4 over each tile: `[N, K/4]` to `[grid]`, accumulated in fp64."""
    return sum_rows(sum_columns(groups, tile), tile).astype(np.float32)


def sum_columns(groups: NDArray[Any], tile: Shape) -> NDArray[np.float64]:
    """Sum over the columns of each tile, `[N, K/4]` to `[N, grid columns]`: first half of `tile_sums`.

    Callers that weight rows do so between the two halves.
    """
    columns = np.arange(0, groups.shape[1], tile[1] // GROUP)
    sums: NDArray[np.float64] = np.add.reduceat(groups, columns, axis=1, dtype=np.float64)
    return sums


def sum_rows(rows: NDArray[Any], tile: Shape) -> NDArray[np.float64]:
    """Sum over the rows of each tile, `[N, grid columns]` to `[grid]`: second half of `tile_sums`."""
    starts = np.arange(0, rows.shape[0], tile[0])
    sums: NDArray[np.float64] = np.add.reduceat(rows, starts, axis=0, dtype=np.float64)
    return sums


def _extents(size: int, step: int) -> NDArray[np.int64]:
    """Returns the lengths of the pieces of `size`: all are `step` long but the last, which may be shorter."""
    starts = np.arange(0, size, step, dtype=np.int64)
    return np.minimum(starts + step, size) - starts
