"""Finds the tile size of masks with tiles of several kinds: the largest size at which tiles take no more bytes.

A tile has the tightest kind that holds it. At the tile size of the pruning every tile has its own kind. At larger sizes some
tiles lie in tiles of different kinds, have the looser one, and take more bytes; at smaller sizes they take the same.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from masklearn.importers.mosaic import by_tightness, zeros_per_group
from masklearn.importers.tile_size import DEFAULT_TILE, LEAST, LOSS, TileSize, cell_sums, tile_sizes
from masklearn.masks.kinds.base import BYTES_DENSE, TileKind
from masklearn.masks.kinds.table import TWO_FOUR
from masklearn.masks.tiles import GROUP, tile_sums

__all__ = ["KindSearch"]


class KindSearch:
    """Takes the masks of linears one by one, and counts the bytes that their tiles save at each tile size.

    kinds: kinds that the tiles of each linear may have; smallest: side of the smallest tile. Memory: one number per
    `smallest` x `smallest` block of one linear.
    """

    def __init__(self, kinds: Mapping[str, Sequence[TileKind]], smallest: int) -> None:
        self.kinds = kinds
        self.smallest = smallest
        self.weights = 0
        self.saved: dict[TileSize, float] = dict.fromkeys(tile_sizes(smallest), 0.0)

    def add(self, name: str, kept: NDArray[np.bool_]) -> None:
        """Count the bytes that a linear's tiles save. kept: bool `[N, K]`, True = kept.

        Groups of 4 without any weight count as nothing, because a dense tile may have dead rows.
        """
        cell = self.smallest, self.smallest
        zeros = zeros_per_group(kept)
        alive = tile_sums(zeros < GROUP, cell).astype(np.float64) * GROUP
        most = {
            kind.family.name: _most_kept(kind, kept, zeros, self.smallest)
            for kind in self.kinds[name]
            if kind.family
        }
        self.weights += kept.size
        for size in self.saved:
            rows, columns = (
                length if side is None else side // self.smallest
                for side, length in zip(size, alive.shape, strict=True)
            )
            held = np.zeros(cell_sums(alive, rows, columns).shape)
            for kind in by_tightness(self.kinds[name]):
                if size[1] is not None and not kind.fits(size[1]):
                    continue
                assert kind.family is not None
                wider = columns * self.smallest // max(self.smallest, kind.span)
                held[_maxima(most[kind.family.name], rows, max(wider, 1)) <= kind.kept] = (
                    BYTES_DENSE - kind.bytes_per_weight
                )
            self.saved[size] += float((held * cell_sums(alive, rows, columns)).sum())

    def result(self) -> TileSize | None:
        """Returns the tile size, 128x128 if every size fits, or None if hardly any tile is pruned."""
        most = max(self.saved.values())
        if most < LEAST * self.weights:
            return None
        fit = [size for size, saved in self.saved.items() if saved >= most * (1 - LOSS)]
        return DEFAULT_TILE if fit[0] == (None, None) else fit[0]


def _most_kept(
    kind: TileKind, kept: NDArray[np.bool_], zeros: NDArray[np.uint8], smallest: int
) -> NDArray[np.uint8]:
    """Returns the most weights that a group keeps, in each block of `smallest` rows and of as many columns or one span."""
    if kind is TWO_FOUR:
        groups, across = np.uint8(GROUP) - zeros, smallest // GROUP
    else:
        assert kind.family is not None
        groups = kind.family.groups(kept.view(np.uint8)).sum(-1, dtype=np.uint8)
        across = max(smallest, kind.span) // kind.group
    return _maxima(groups, smallest, across)


def _maxima(cells: NDArray[np.uint8], rows: int, columns: int) -> NDArray[np.uint8]:
    down = np.maximum.reduceat(cells, np.arange(0, cells.shape[0], rows), axis=0)
    most: NDArray[np.uint8] = np.maximum.reduceat(down, np.arange(0, cells.shape[1], columns), axis=1)
    return most
