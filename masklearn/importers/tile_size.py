"""Finds the tile size of masks whose source does not name it: the largest size at which no 2:4 area is lost.

Groups of 4 with two or three zeros are evidence of a sparse tile. Groups of four zeros are not, because a dense tile may
have dead rows. A tile is sparse if all its groups have two zeros or more. At the tile size of the pruning all evidence is in
sparse tiles. At larger sizes some tiles are partly dense, and the evidence in them is lost.
"""

from collections.abc import Iterable
from itertools import product
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from masklearn.importers.mosaic import zeros_per_group
from masklearn.masks.tiles import GROUP, tile_sums

__all__ = ["DEFAULT_TILE", "LEAST", "LOSS", "TileSearch", "TileSize", "cell_sums", "tile_of", "tile_sizes"]

_Number = TypeVar("_Number", np.int64, np.float64)

# (rows, columns); None stands for all rows or columns of a linear.
TileSize = tuple[int | None, int | None]

DEFAULT_TILE = (128, 128)

_SIDES: tuple[int | None, ...] = (4, 8, 16, 32, 64, 96, 128, 192, 256, None)
_WHOLE = 2**20  # stands for None where sizes are compared
LOSS = 1e-3  # share of the evidence that a tile size may lose: zeros from before pruning look like evidence
LEAST = 1e-2  # least share of all groups that must be evidence; less may be chance


class TileSearch:
    """Takes the masks of linears one by one and rules out tile sizes.

    shapes: (N, K) of all linears to come; smallest: side of the smallest tile. Memory: one number per
    `smallest` x `smallest` block of one linear.
    """

    def __init__(self, shapes: Iterable[tuple[int, int]], smallest: int) -> None:
        self.smallest = smallest
        self.groups = sum(rows * columns for rows, columns in shapes) // GROUP
        self.evidence = 0
        self.lost: dict[TileSize, int] = dict.fromkeys(tile_sizes(smallest), 0)

    def add(self, kept: NDArray[np.bool_]) -> None:
        """Count the evidence in a mask, bool `[N, K]`, True = kept, and how much of it each size would lose."""
        zeros = zeros_per_group(kept)
        cell = (self.smallest, self.smallest)
        dense = tile_sums(zeros < 2, cell).astype(np.int64)
        evidence = tile_sums((zeros >= 2) & (zeros < GROUP), cell).astype(np.int64) * (dense == 0)
        total = int(evidence.sum())
        self.evidence += total
        if total == 0 or not dense.any():  # a fully dense or fully sparse linear fits every size
            return
        for size in list(self.lost):
            self.lost[size] += total - self._explained(size, dense, evidence)
            if self.lost[size] > LOSS * self.groups:
                del self.lost[size]

    def result(self) -> tuple[int | None, int | None] | None:
        """Returns the tile size, 128x128 if every size fits, or None if there is too little evidence of 2:4 tiles."""
        if self.evidence < LEAST * self.groups:
            return None
        fit = [size for size, lost in self.lost.items() if lost <= LOSS * self.evidence]
        return DEFAULT_TILE if fit[0] == (None, None) else fit[0]

    def _explained(self, size: TileSize, dense: NDArray[np.int64], evidence: NDArray[np.int64]) -> int:
        rows, columns = (
            length if side is None else side // self.smallest
            for side, length in zip(size, dense.shape, strict=True)
        )
        return int(cell_sums(evidence, rows, columns)[cell_sums(dense, rows, columns) == 0].sum())


def tile_of(size: TileSize, shape: tuple[int, int]) -> tuple[int, int]:
    """Returns (rows, columns) of the tiles of a linear of shape (N, K)."""
    return size[0] or shape[0], size[1] or shape[1]


def tile_sizes(smallest: int) -> list[TileSize]:
    """Returns all tile sizes by falling area, and of equal areas the one nearest to a square first."""

    def order(size: TileSize) -> tuple[int, int]:
        rows, columns = (side or _WHOLE for side in size)
        return -rows * columns, abs(rows - columns)

    sides = [side for side in _SIDES if side is None or side >= smallest]
    return sorted(product(sides, sides), key=order)


def cell_sums(cells: NDArray[_Number], rows: int, columns: int) -> NDArray[_Number]:
    """Sum blocks of rows x columns cells; the last ones may be smaller."""
    down = np.add.reduceat(cells, np.arange(0, cells.shape[0], rows), axis=0)
    sums: NDArray[_Number] = np.add.reduceat(down, np.arange(0, cells.shape[1], columns), axis=1)
    return sums
