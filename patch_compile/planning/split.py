"""Clusters the tile rows of a linear, so that few ordinary products compute it: the lowering `split`.

Tile rows are clustered into groups. The 2:4 part of a group consists of the tile columns that are 2:4 in all of its rows,
if a product of them pays off. The other columns are its dense part, which computes their 2:4 tiles densely too:

    Y_g = X[:, K_d] W_dᵀ + X[:, K_s] W_sᵀ,  Y = the groups side by side, their rows put back in order

    tile map      one group: nothing in common    two groups: every 2:4 tile is used
    ■ ■ □ □       dense: 3 × 4                    rows 0, 2: 2:4 columns 0, 1; dense columns 2, 3
    □ □ □ ■       2:4:   none                     row 1:     2:4 column 3;     dense columns 0, 1, 2
    ■ ■ □ □

More groups use more of the 2:4 tiles, but launch more and smaller products. The predicted time is minimised, see
`SplitCost`. Equal tile maps and costs give equal groups.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from patch_compile.artifacts.plan import SplitRow
from patch_compile.errors import InvariantError

PART = "patch_compile.part"
"""Key of an ONNX node's metadata: `dense` or `sparse` on the products of a split, for the check of the engine."""

Shape = tuple[int, int]
Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class SplitCost:
    """Microseconds to minimise: `launches·launch + dense weights·dense + 2:4 weights·sparse + columns·column`.

    launch: of any kernel: a product, a gather of columns of X, a sum of two parts, the gather that puts rows in order.
    dense, sparse: per weight. column: of moving a column of X or Y. The defaults are for 2048 tokens on an RTX A6000
    (155 TFLOP/s fp16, of which 70 % is reached, and 768 GB/s). They assume 2:4 products 1.3 times as fast as dense
    products, which TensorRT's own kernels reach; this was not measured here.
    """

    launch: float = 5.0
    dense: float = 3.8e-5
    sparse: float = 2.9e-5
    column: float = 1.1e-2

    def of_group(self, rows: Any, sparse_k: Any, in_features: int) -> Any:
        """Returns the time of a group of `rows` output rows with `sparse_k` of its K 2:4, as numbers or arrays."""
        dense_k = in_features - sparse_k
        both = (sparse_k > 0) & (dense_k > 0)
        launches = np.where(both, 5, 1)  # two products, two gathers and a sum
        moved = np.where(both, in_features + rows, 0)
        weights = rows * (dense_k * self.dense + sparse_k * self.sparse)
        return launches * self.launch + moved * self.column + weights

    def of_rows(self, rows: Any, common_k: Any, in_features: int) -> Any:
        """Returns the time of rows that have `common_k` of K 2:4 in all of them, computed densely if that is cheaper."""
        dense = self.of_group(rows, np.zeros_like(common_k), in_features)
        return np.minimum(dense, self.of_group(rows, common_k, in_features))

    def of_order(self, out_features: int) -> float:
        """Returns the time of putting the rows of Y back in order."""
        return self.launch + out_features * self.column


@dataclass(frozen=True)
class SplitGroup:
    """Tile rows that are computed together, and the tile columns of their 2:4 part; both ascending."""

    rows: tuple[int, ...]
    sparse_columns: tuple[int, ...]


@dataclass(frozen=True)
class Split:
    """The groups of one linear `[N, K]`. They partition its tile rows."""

    shape: Shape
    tile: Shape
    groups: tuple[SplitGroup, ...]

    def rows(self, group: SplitGroup) -> NDArray[np.int64]:
        """Returns the output rows of a group, in the order of its parts."""
        return _elements(group.rows, self.tile[0], self.shape[0])

    def sparse_k(self, group: SplitGroup) -> NDArray[np.int64]:
        """Returns the k of a group's 2:4 part: whole groups of 4, since tiles are."""
        return _elements(group.sparse_columns, self.tile[1], self.shape[1])

    def dense_k(self, group: SplitGroup) -> NDArray[np.int64]:
        """Returns the k of a group's dense part."""
        columns = -(-self.shape[1] // self.tile[1])
        return _elements(sorted({*range(columns)} - {*group.sparse_columns}), self.tile[1], self.shape[1])

    @property
    def row_order(self) -> NDArray[np.int64] | None:
        """Returns the position of each row of Y in the groups side by side, or None if all rows are in place."""
        made = np.concatenate([self.rows(group) for group in self.groups])
        order: NDArray[np.int64] = np.argsort(made, kind="stable")
        return None if np.array_equal(order, np.arange(len(order))) else order

    @property
    def products(self) -> int:
        """Returns the number of matrix products: one for each part of a group that is not empty."""
        return sum(bool(len(k)) for group in self.groups for k in (self.sparse_k(group), self.dense_k(group)))

    @property
    def sparse_weights(self) -> int:
        """Returns the number of weights in 2:4 parts. 2:4 tiles in dense parts do not count."""
        return sum(len(self.rows(group)) * len(self.sparse_k(group)) for group in self.groups)

    def row(self) -> SplitRow:
        return SplitRow(groups=len(self.groups), products=self.products, sparse_weights=self.sparse_weights)

    def predicted_us(self, cost: SplitCost) -> float:
        """Returns the time that `plan_split` minimises, in microseconds."""
        parts = (
            cost.of_group(len(self.rows(group)), len(self.sparse_k(group)), self.shape[1])
            for group in self.groups
        )
        order = 0.0 if self.row_order is None else cost.of_order(self.shape[0])
        return float(sum(parts)) + order


def plan_split(tiles: Bools, shape: Shape, tile: Shape, cost: SplitCost | None = None) -> Split:
    """Returns the cheaper of two clusterings of a tile map `[grid]`. At equal cost the first, which keeps the order.

    1. Groups of neighbouring tile rows: the best there are, by dynamic programming. One group is among them.
    2. Any groups: equal tile rows are joined, then repeatedly the two groups whose joining saves most, as long as it saves
       anything. The time of putting the rows back in order counts too.
    """
    cost = cost or SplitCost()
    heights, widths = (_extents(size, step) for size, step in zip(shape, tile, strict=True))
    found = (_neighbours(tiles, heights, widths, cost), _joined(tiles, heights, widths, cost))
    splits = [
        Split(shape, tile, tuple(_group(tiles, rows, heights, widths, cost) for rows in groups))
        for groups in found
    ]
    return min(splits, key=lambda split: split.predicted_us(cost))


def _neighbours(tiles: Bools, heights: Floats, widths: Floats, cost: SplitCost) -> list[tuple[int, ...]]:
    """Returns the best cut of tile rows into runs: best[end] = min over start of best[start] + the run's cost."""
    n, in_features = len(tiles), int(widths.sum())
    best, first = np.zeros(n + 1), np.zeros(n, np.int64)
    for end in range(1, n + 1):
        # Row `start` marks the columns that are 2:4 in all of the rows start … end-1.
        common = np.logical_and.accumulate(tiles[:end][::-1])[::-1]
        rows = np.cumsum(heights[:end][::-1])[::-1]
        totals = best[:end] + cost.of_rows(rows, common @ widths, in_features)
        first[end - 1] = start = int(totals.argmin())
        best[end] = totals[start]
    runs, end = [], n
    while end:
        runs.append(tuple(range(first[end - 1], end)))
        end = int(first[end - 1])
    return runs[::-1]


def _joined(tiles: Bools, heights: Floats, widths: Floats, cost: SplitCost) -> list[tuple[int, ...]]:
    """Join groups pairwise. The pair that saves most comes first, and of equal pairs the first."""
    equal: dict[bytes, list[int]] = {}
    for row, pattern in enumerate(tiles):
        equal.setdefault(pattern.tobytes(), []).append(row)
    groups = [tuple(rows) for rows in equal.values()]
    common = np.stack([tiles[rows[0]] for rows in groups])
    tall = np.array([heights[list(rows)].sum() for rows in groups])
    in_features = int(widths.sum())
    shared = (common * widths) @ common.T.astype(np.float64)  # K that is 2:4 in both of a pair
    while len(groups) > 1:
        alone = cost.of_rows(tall, np.diagonal(shared), in_features)
        saved = np.add.outer(alone, alone) - cost.of_rows(np.add.outer(tall, tall), shared, in_features)
        saved[np.tril_indices(len(groups))] = -np.inf
        i, j = np.unravel_index(int(saved.argmax()), saved.shape)
        if saved[i, j] <= 0:
            break
        groups[i] = tuple(sorted(groups[i] + groups.pop(j)))
        common[i] &= common[j]
        tall[i] += tall[j]
        common, tall = np.delete(common, j, axis=0), np.delete(tall, j)
        shared = np.delete(np.delete(shared, j, axis=0), j, axis=1)
        shared[i] = shared[:, i] = common @ (common[i] * widths)
    return sorted(groups)


def _group(
    tiles: Bools, rows: tuple[int, ...], heights: Floats, widths: Floats, cost: SplitCost
) -> SplitGroup:
    """Returns the group of some rows. Its 2:4 part is empty if one dense product is cheaper."""
    common = tiles[list(rows)].all(axis=0)
    tall, common_k, in_features = heights[list(rows)].sum(), common @ widths, int(widths.sum())
    worth = cost.of_group(tall, common_k, in_features) < cost.of_group(tall, 0.0, in_features)
    return SplitGroup(rows, tuple(int(column) for column in np.flatnonzero(common)) if worth else ())


def _extents(size: int, step: int) -> Floats:
    starts = np.arange(0, size, step)
    return (np.minimum(starts + step, size) - starts).astype(np.float64)


def _elements(tiles: Iterable[int], step: int, size: int) -> NDArray[np.int64]:
    """Returns the rows or k that lie in tiles. The last tile may be cut off."""
    parts = [np.arange(t * step, min((t + 1) * step, size), dtype=np.int64) for t in tiles]
    return np.concatenate(parts) if parts else np.zeros(0, np.int64)


def check_split(name: str, split: Split, tiles: NDArray[np.bool_]) -> None:
    """Check that the groups partition the tile rows, and that every 2:4 part lies in 2:4 tiles only.

    Every weight is then in one part. tiles: the linear's tile map. Raises InvariantError with the linear's name.
    """
    rows = sorted(row for group in split.groups for row in group.rows)
    if rows != [*range(len(tiles))]:
        raise InvariantError(f"{name}: its {len(tiles)} tile rows and the rows of its groups differ: {rows}")
    for group in split.groups:
        if not tiles[np.ix_(group.rows, group.sparse_columns)].all():
            raise InvariantError(f"{name}: dense tiles lie in the 2:4 part of the tile rows {group.rows}")
