"""How each linear is compiled, with the reason when it is not `plugin`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from masklearn.masks.linear_mask import LinearMask
from patch_compile.out.plan import (
    LinearRow,
    LinearTimes,
    Lowering,
    Node,
    Reason,
    ReasonKind,
    Slabs,
    TileCount,
)
from patch_compile.packing.format import SLAB_K, choose_panel_rows, sparse_slabs
from patch_compile.plan.cost import CostModel
from patch_compile.plan.lowering_patterns import Asked, asked_lowerings
from patch_compile.plan.split import Split

__all__ = ["LinearPlan", "plan_linear", "plan_linears", "uncovered"]

_ELEMENT = 2  # bytes of fp16 and bf16
_SPARSE_BYTES_PER_WEIGHT = 1.125


@dataclass(frozen=True)
class LinearPlan:
    """One linear: `shape` is `[N, K]`; bytes are those of the 16-bit weight and of its packed tensors.

    reason: why it is not `plugin`, else None. node: the PatchLinear node that computes it where it is, which gate and up
    share, and q, k and v; until the graph is known a node has its linear's name and no other linear.
    predicted: its times, the linear on its own, None where nothing is known of the card. split: the products that compute
    a linear lowered as `split`, once they are chosen.
    """

    name: str
    shape: tuple[int, int]
    sparse_tiles: int
    tiles: int
    zeroed: int
    lowering: Lowering
    reason: Reason | None
    panel_rows: int
    dense_slabs: int
    sparse_slabs: int
    node: Node
    predicted: LinearTimes | None = None
    split: Split | None = None

    @property
    def share(self) -> float:
        """`p`: weights in 2:4 tiles, over all of its weights."""
        return 2 * self.zeroed / (self.shape[0] * self.shape[1])

    @property
    def bytes_before(self) -> int:
        """Bytes of the dense 16-bit weight."""
        return self.shape[0] * self.shape[1] * _ELEMENT

    @property
    def bytes_after(self) -> int:
        """Bytes of the constants that the compiled linear reads, padding and index included."""
        if self.lowering != "plugin":
            return self.bytes_before
        slab = self.panel_rows * SLAB_K
        panels = -(-self.shape[0] // self.panel_rows)
        # Two rows of pointers with an end each, which the linears of a node share.
        pointers = 2 * panels + 2 * (self.node.linears[0] == self.name)
        index = 4 * (pointers + self.dense_slabs + self.sparse_slabs)
        return (
            self.dense_slabs * slab * _ELEMENT
            + int(self.sparse_slabs * slab * _SPARSE_BYTES_PER_WEIGHT)
            + index
        )

    def row(self) -> LinearRow:
        """The linear's row in plan.json and report.json."""
        return LinearRow(
            name=self.name,
            shape=self.shape,
            zeroed=self.zeroed,
            tiles=TileCount(sparse=self.sparse_tiles, all=self.tiles),
            lowering=self.lowering,
            reason=self.reason,
            node=self.node if self.lowering == "plugin" else None,
            panel_rows=self.panel_rows,
            slabs=Slabs(dense=self.dense_slabs, sparse=self.sparse_slabs),
            bytes_before=self.bytes_before,
            bytes_after=self.bytes_after,
            predicted=self.predicted,
            split=self.split.row() if self.split else None,
        )

    def named(self, name: str) -> LinearPlan:
        """The plan of another linear that is compiled alike, before the graph is known."""
        return replace(self, name=name, node=_alone(name))

    @classmethod
    def of(cls, row: LinearRow) -> LinearPlan:
        """The plan that a row tells, without its times and its split."""
        return cls(
            row.name,
            row.shape,
            row.tiles.sparse,
            row.tiles.all,
            row.zeroed,
            row.lowering,
            row.reason,
            row.panel_rows,
            row.slabs.dense,
            row.slabs.sparse,
            row.node or _alone(row.name),
        )

    def fused(self, mask: LinearMask, node: Node, panel_rows: int | None = None) -> LinearPlan:
        """The plan once the graph has told what its node does; panel_rows: None keeps the panels."""
        rows = panel_rows or self.panel_rows
        dense, sparse = _count_slabs(mask, rows)
        return replace(self, node=node, panel_rows=rows, dense_slabs=dense, sparse_slabs=sparse)


def plan_linears(
    masks: Mapping[str, LinearMask], lowering: str = "plugin", costs: CostModel | None = None
) -> dict[str, LinearPlan]:
    """The plan of every covered linear, in the order of the masks.

    lowering: as `--lowering` spells it; costs: what `auto` goes by, None where nothing is known of the card.
    PatchCompileError for a pattern that fits no linear.
    """
    asked = asked_lowerings(lowering, list(masks))
    return {name: plan_linear(name, masks[name], asked[name], costs) for name in masks}


def plan_linear(
    name: str, mask: LinearMask, asked: Asked = "plugin", costs: CostModel | None = None
) -> LinearPlan:
    """The lowering that is asked for, wherever a slab is sparse: a 2:4 slab reads 1.125 bytes a weight, a dense one 2.

    `auto` is `plugin` where it is predicted to be faster than `dense`, and where nothing is predicted.
    """
    panel_rows = choose_panel_rows(mask.shape, mask.tile)
    dense, sparse = _count_slabs(mask, panel_rows)
    predicted = costs.of(mask.shape, panel_rows, dense, sparse) if costs else None
    chosen, reason = _choose(asked, _unfit(asked, mask, sparse > 0), costs, predicted)
    return LinearPlan(
        name=name,
        shape=mask.shape,
        sparse_tiles=int(mask.tiles.sum()),
        tiles=mask.tiles.size,
        zeroed=mask.zeroed,
        lowering=chosen,
        reason=reason,
        panel_rows=panel_rows,
        dense_slabs=dense,
        sparse_slabs=sparse,
        node=_alone(name),
        predicted=predicted,
    )


def uncovered(name: str, shape: tuple[int, int]) -> LinearPlan:
    """The plan of a linear that has no mask: it stays as it is."""
    rows = choose_panel_rows(shape, shape)
    slabs = -(-shape[0] // rows) * -(-shape[1] // SLAB_K)
    reason = Reason(kind=ReasonKind.NOT_COVERED)
    return LinearPlan(name, shape, 0, 1, 0, "dense", reason, rows, slabs, 0, _alone(name))


def _alone(name: str) -> Node:
    """The node of a linear before the graph has told what else it computes."""
    return Node(name=name, linears=(name,))


def _choose(
    asked: Asked, unfit: Reason | None, costs: CostModel | None, predicted: LinearTimes | None
) -> tuple[Lowering, Reason | None]:
    """The lowering, and why it is not `plugin`; unfit: why nothing but `dense` is possible."""
    if unfit:
        return "dense", unfit
    if asked in ("split", "dense"):
        return asked, Reason(kind=ReasonKind.ASKED)
    slower = costs.why_dense(predicted) if asked == "auto" and costs and predicted else None
    return ("dense", slower) if slower else ("plugin", None)


def _count_slabs(mask: LinearMask, panel_rows: int) -> tuple[int, int]:
    """How many slabs are stored densely and how many 2:4."""
    grid = sparse_slabs(mask, panel_rows)
    return int((~grid).sum()), int(grid.sum())


def _unfit(asked: Asked, mask: LinearMask, any_sparse_slab: bool) -> Reason | None:
    if not mask.tiles.any():
        return Reason(kind=ReasonKind.NO_SPARSE_TILE)
    if not any_sparse_slab and asked in ("auto", "plugin"):  # the others have no slabs
        return Reason(kind=ReasonKind.SMALL_TILES, tile=mask.tile)
    return None
