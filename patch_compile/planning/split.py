"""Divides the rows of a linear into a few ordinary GEMMs, dense and 2:4: the lowering `split`.

A row of W is 2:4 if all of its tiles are. Of three ways to divide the rows, the way that is predicted to be fastest is
taken:

    tile map      one GEMM           a GEMM for each run         two GEMMs, and the rows of Y put in order
    □ □ □
    ■ □ □         dense: all rows    2:4, dense, 2:4, dense      2:4: tile rows 0, 2; dense: tile rows 1, 3
    □ □ □
    ■ □ ■

A 2:4 tile in a row with dense tiles is computed densely. `--tile 128x*` has no such tiles.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from masklearn.quant.grid import Grid
from masklearn.quant.table import FLOAT16, WeightType
from patch_compile.artifacts.plan import SplitRow

PART = "patch_compile.part"
"""Key of an ONNX node's metadata: `dense` or `sparse` on the GEMMs of a split, for the check of the engine."""

Shape = tuple[int, int]
Kind = Literal["dense", "sparse"]


@dataclass(frozen=True)
class SplitCost:
    """Microseconds to minimise: `launches·launch + dense weights·dense + 2:4 weights·sparse + rows in another order·row`.

    launch: of any kernel: a GEMM, or the gather that puts rows in order. dense, sparse: per weight. row: of moving a row
    of Y. The defaults are for 2048 tokens on an RTX A6000 (155 TFLOP/s fp16, of which 70 % is reached, and 768 GB/s). They
    assume 2:4 GEMMs 1.3 times as fast as dense GEMMs, which TensorRT's own kernels reach; this was not measured here.
    """

    launch: float = 5.0
    dense: float = 3.8e-5
    sparse: float = 2.9e-5
    row: float = 1.1e-2

    @classmethod
    def of(cls, weights: WeightType) -> SplitCost:
        """Returns the cost of GEMMs of these weights: int8 takes half of the time and of the bytes."""
        share = weights.input_bits / FLOAT16.bits
        return cls(cls.launch, cls.dense * share, cls.sparse * share, cls.row * share)


@dataclass(frozen=True, eq=False)
class SplitPart:
    """One GEMM of a split linear. rows: of W, ascending; kind: sparse if all of these rows are 2:4."""

    rows: NDArray[np.int64]
    kind: Kind


@dataclass(frozen=True, eq=False)
class Split:
    """The GEMMs of one linear `[N, K]`. Each row of W is in one of them."""

    shape: Shape
    parts: tuple[SplitPart, ...]

    @property
    def row_order(self) -> NDArray[np.int64] | None:
        """Returns the position of each row of Y in the parts side by side, or None if all rows are in place."""
        order: NDArray[np.int64] = np.argsort(
            np.concatenate([part.rows for part in self.parts]), kind="stable"
        )
        return None if np.array_equal(order, np.arange(len(order))) else order

    @property
    def sparse_weights(self) -> int:
        """Returns the number of weights in 2:4 parts. 2:4 tiles in dense parts do not count."""
        return sum(len(part.rows) for part in self.parts if part.kind == "sparse") * self.shape[1]

    def row(self) -> SplitRow:
        return SplitRow(products=len(self.parts), sparse_weights=self.sparse_weights)

    def predicted_us(self, cost: SplitCost) -> float:
        """Returns the time that `plan_split` minimises, in microseconds."""
        dense = self.shape[0] * self.shape[1] - self.sparse_weights
        gather = 0.0 if self.row_order is None else cost.launch + self.shape[0] * cost.row
        return len(self.parts) * cost.launch + dense * cost.dense + self.sparse_weights * cost.sparse + gather


def plan_split(tiles: NDArray[np.bool_], shape: Shape, tile: Shape, cost: SplitCost | None = None) -> Split:
    """Returns the fastest of the three ways to divide a linear; of equally fast ways the first.

    tiles: its map of 2:4 tiles `[grid]`. Equal maps and costs give equal splits.
    """
    cost = cost or SplitCost()
    sparse = np.repeat(tiles.all(axis=1), tile[0])[: shape[0]]  # by row of W
    rows = np.arange(shape[0])
    ways = (
        [SplitPart(rows, _kind(sparse))],
        [SplitPart(run, _kind(sparse[run])) for run in np.split(rows, np.flatnonzero(np.diff(sparse)) + 1)],
        [SplitPart(rows[sparse], "sparse"), SplitPart(rows[~sparse], "dense")],
    )
    splits = [Split(shape, tuple(part for part in way if len(part.rows))) for way in ways]
    return min(splits, key=lambda split: split.predicted_us(cost))


def usable(tiles: NDArray[np.bool_], grid: Grid | None) -> NDArray[np.bool_]:
    """Returns the 2:4 tiles that a tactic of TensorRT can use: none if Y of int8 GEMMs has 16 bits.

    grid: of a linear of type w8a8, None for 16-bit weights, or before activations are calibrated.
    """
    scales = grid.activations if grid else None
    return tiles & (scales is None or scales.output is not None)


def _kind(sparse: NDArray[np.bool_]) -> Kind:
    return "sparse" if sparse.all() else "dense"
