"""How each linear is compiled, with the reason in words when it is not `plugin`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from masklearn.maskset import LinearMask
from patch_compile.packing import SLAB_K, choose_panel_rows, sparse_slabs

__all__ = ["LinearPlan", "Lowering", "plan_linear", "plan_linears"]

Lowering = Literal["plugin", "split", "dense"]
_ELEMENT = 2  # bytes of fp16 and bf16
_SPARSE_BYTES_PER_WEIGHT = 1.125


@dataclass(frozen=True)
class LinearPlan:
    """One linear: `shape` is `[N, K]`; bytes are those of the 16-bit weight and of its packed tensors.

    node: name of the PatchLinear node that computes it, which gate and up share. epilogue: in words, what that node does
    beside the product and the bias. Both are known when the graph is; until then a node has its linear's name.
    """

    name: str
    shape: tuple[int, int]
    sparse_tiles: int
    tiles: int
    zeroed: int
    lowering: Lowering
    reason: str
    panel_rows: int
    dense_slabs: int
    sparse_slabs: int
    node: str
    epilogue: str = ""

    @property
    def bytes_before(self) -> int:
        """Bytes of the dense 16-bit weight."""
        return self.shape[0] * self.shape[1] * _ELEMENT

    @property
    def bytes_after(self) -> int:
        """Bytes of the constants that the compiled linear reads, padding and index included."""
        if self.lowering == "dense":
            return self.bytes_before
        slab = self.panel_rows * SLAB_K
        panels = -(-self.shape[0] // self.panel_rows)
        # Two rows of pointers with an end each, which gate and up share.
        pointers = 2 * panels + (2 if self.node == self.name else 1)
        index = 4 * (pointers + self.dense_slabs + self.sparse_slabs)
        return (
            self.dense_slabs * slab * _ELEMENT
            + int(self.sparse_slabs * slab * _SPARSE_BYTES_PER_WEIGHT)
            + index
        )

    def row(self) -> dict[str, Any]:
        """The linear's row in report.json."""
        return {
            "name": self.name,
            "shape": list(self.shape),
            "zeroed": self.zeroed,
            "tiles": {"sparse": self.sparse_tiles, "all": self.tiles},
            "lowering": self.lowering,
            "reason": self.reason,
            "node": self.node if self.lowering == "plugin" else None,
            "epilogue": self.epilogue,
            "panel_rows": self.panel_rows,
            "slabs": {"dense": self.dense_slabs, "sparse": self.sparse_slabs},
            "bytes_before": self.bytes_before,
            "bytes_after": self.bytes_after,
        }

    def fused(self, mask: LinearMask, node: str, epilogue: str, panel_rows: int | None = None) -> LinearPlan:
        """The plan once the graph has told what its node does; panel_rows: None keeps the panels."""
        rows = panel_rows or self.panel_rows
        dense, sparse = _count_slabs(mask, rows)
        return replace(
            self, node=node, epilogue=epilogue, panel_rows=rows, dense_slabs=dense, sparse_slabs=sparse
        )


def plan_linears(masks: Mapping[str, LinearMask]) -> dict[str, LinearPlan]:
    """The plan of every covered linear, in the order of the masks."""
    return {name: plan_linear(name, masks[name]) for name in masks}


def plan_linear(name: str, mask: LinearMask) -> LinearPlan:
    """`plugin` wherever a slab is sparse: a 2:4 slab reads 1.125 bytes a weight, a dense one 2."""
    panel_rows = choose_panel_rows(mask.shape, mask.tile)
    dense, sparse = _count_slabs(mask, panel_rows)
    reason = _why_dense(mask, sparse > 0)
    return LinearPlan(
        name=name,
        shape=mask.shape,
        sparse_tiles=int(mask.tiles.sum()),
        tiles=mask.tiles.size,
        zeroed=mask.zeroed,
        lowering="dense" if reason else "plugin",
        reason=reason,
        panel_rows=panel_rows,
        dense_slabs=dense,
        sparse_slabs=sparse,
        node=name,
    )


def _count_slabs(mask: LinearMask, panel_rows: int) -> tuple[int, int]:
    """How many slabs are stored densely and how many 2:4."""
    grid = sparse_slabs(mask, panel_rows)
    return int((~grid).sum()), int(grid.sum())


def _why_dense(mask: LinearMask, any_sparse_slab: bool) -> str:
    if not mask.tiles.any():
        return "none of its tiles is 2:4"
    if not any_sparse_slab:
        return f"no {SLAB_K}-wide slab lies in 2:4 tiles alone: tiles of {mask.tile[0]}×{mask.tile[1]} are too small"
    return ""
