"""The tile size of masks that do not say it: the largest at which no 2:4 area is lost.

Groups of 4 with two or three zeros are evidence of a sparse tile; a group of four zeros fits sparse and dense alike
(a dead row is no tile). A tile of some size is sparse when all its groups have two zeros or more. At the size that
was pruned with, all evidence lies in sparse tiles; at a larger one, tiles that are partly dense lose theirs.
"""

from collections.abc import Iterable
from itertools import product

import numpy as np
from numpy.typing import NDArray

from masklearn.importers.groups import zeros_per_group
from masklearn.masks.tiles import GROUP, tile_sums

__all__ = ["DEFAULT_TILE", "TileSearch", "TileSize", "tile_of"]

# Rows and columns; None: the linear's whole height or width.
TileSize = tuple[int | None, int | None]

DEFAULT_TILE = (128, 128)

_SIDES: tuple[int | None, ...] = (4, 8, 16, 32, 64, 96, 128, 192, 256, None)
_WHOLE = 2**20  # stands for None where sizes are compared
_LOSS = 1e-3  # share of the evidence that a larger tile may lose: zeros that were there before pruning look like it
_LEAST = 1e-2  # share of all groups that must lie in sparse tiles; less is chance


class TileSearch:
    """Sees the mask of one linear at a time and rules out tile sizes.

    shapes: (N, K) of all linears that will be seen; smallest: side of the smallest tile. Memory: a number per
    `smallest` x `smallest` block of one linear.
    """

    def __init__(self, shapes: Iterable[tuple[int, int]], smallest: int) -> None:
        self.smallest = smallest
        self.groups = sum(rows * columns for rows, columns in shapes) // GROUP
        self.evidence = 0
        self.lost: dict[TileSize, int] = dict.fromkeys(_sizes(smallest), 0)

    def add(self, kept: NDArray[np.bool_]) -> None:
        """Count what each size would lose of a mask `[N, K]`."""
        zeros = zeros_per_group(kept)
        cell = (self.smallest, self.smallest)
        dense = tile_sums(zeros < 2, cell).astype(np.int64)
        evidence = tile_sums((zeros >= 2) & (zeros < GROUP), cell).astype(np.int64) * (dense == 0)
        total = int(evidence.sum())
        self.evidence += total
        if total == 0 or not dense.any():  # wholly dense, or wholly sparse: any size will do
            return
        for size in list(self.lost):
            self.lost[size] += total - self._explained(size, dense, evidence)
            if self.lost[size] > _LOSS * self.groups:
                del self.lost[size]

    def result(self) -> tuple[int | None, int | None] | None:
        """The tile size, 128x128 where any will do; None when there is no 2:4 area to speak of."""
        if self.evidence < _LEAST * self.groups:
            return None
        fit = [size for size, lost in self.lost.items() if lost <= _LOSS * self.evidence]
        return DEFAULT_TILE if fit[0] == (None, None) else fit[0]

    def _explained(self, size: TileSize, dense: NDArray[np.int64], evidence: NDArray[np.int64]) -> int:
        rows, columns = (
            length if side is None else side // self.smallest
            for side, length in zip(size, dense.shape, strict=True)
        )
        return int(_sums(evidence, rows, columns)[_sums(dense, rows, columns) == 0].sum())


def tile_of(size: TileSize, shape: tuple[int, int]) -> tuple[int, int]:
    """The tile of a linear of shape (N, K)."""
    return size[0] or shape[0], size[1] or shape[1]


def _sizes(smallest: int) -> list[TileSize]:
    """Largest area first, then the one nearest to a square."""

    def order(size: TileSize) -> tuple[int, int]:
        rows, columns = (side or _WHOLE for side in size)
        return -rows * columns, abs(rows - columns)

    sides = [side for side in _SIDES if side is None or side >= smallest]
    return sorted(product(sides, sides), key=order)


def _sums(cells: NDArray[np.int64], rows: int, columns: int) -> NDArray[np.int64]:
    down = np.add.reduceat(cells, np.arange(0, cells.shape[0], rows), axis=0)
    sums: NDArray[np.int64] = np.add.reduceat(down, np.arange(0, cells.shape[1], columns), axis=1)
    return sums
