"""Predicted microseconds of one linear: dense, hybrid and all 2:4, while a prompt is read and in a decode step."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

from patch_compile.hardware.cards import Device
from patch_compile.plan.cards import Card
from patch_compile.plan.roofline.assumptions import Assumptions
from patch_compile.plan.roofline.linear_roofline import Linear, predict
from patch_compile.plan.workload import Workload

__all__ = ["CostModel", "LinearCost", "Times"]

Shape = tuple[int, int]


@dataclass(frozen=True)
class Times:
    """Microseconds in one phase. tensor_bound: the dense product is, not by bytes; reason: why the hybrid linear is slower
    than the dense one where the card's tensor cores are to blame, as on Hopper; empty where it is not.
    """

    dense: float
    hybrid: float
    sparse: float
    tensor_bound: bool
    reason: str

    def row(self) -> dict[str, float]:
        """For JSON; µs."""
        return {"dense": self.dense, "hybrid": self.hybrid, "2:4": self.sparse}


@dataclass(frozen=True)
class LinearCost:
    """One linear in both phases."""

    prefill: Times
    decode: Times

    def row(self) -> dict[str, Any]:
        """For plan.json; µs."""
        return {"prefill": self.prefill.row(), "decode": self.decode.row()}


@dataclass(frozen=True)
class CostModel:
    """The roofline of a card under a workload."""

    card: Card
    workload: Workload

    def of(self, shape: Shape, panel_rows: int, dense_slabs: int, sparse_slabs: int) -> LinearCost:
        """Of a linear `[N, K]` that is packed in so many slabs."""
        share = sparse_slabs / (dense_slabs + sparse_slabs)
        tokens = (self.workload.prefill_tokens, self.workload.batch)
        card = self.card
        return LinearCost(
            *(_times(card.device, shape, panel_rows, share, many, card.assume) for many in tokens)
        )

    def dense(self, cost: LinearCost) -> float:
        """Microseconds of the dense linear in the whole workload."""
        return self.workload.total(cost.prefill.dense, cost.decode.dense)

    def hybrid(self, cost: LinearCost) -> float:
        """The same of the hybrid one."""
        return self.workload.total(cost.prefill.hybrid, cost.decode.hybrid)

    def sparse(self, cost: LinearCost) -> float:
        """The same with all tiles 2:4."""
        return self.workload.total(cost.prefill.sparse, cost.decode.sparse)

    def why_dense(self, cost: LinearCost) -> str:
        """Why dense is the faster lowering for the workload, in words that fit all linears alike; empty if it is not."""
        dense, name = self.dense(cost), self.card.name
        if self.hybrid(cost) < dense:
            return ""
        if self.sparse(cost) < dense:
            return f"too little of it is 2:4: on {name} hybrid is predicted no faster than dense"
        if cost.prefill.reason and cost.decode.sparse < cost.decode.dense:
            return f"its prompts outweigh its decode steps, and on {name} {cost.prefill.reason} in prefill"
        return f"it is too small: on {name} even all 2:4 it is predicted no faster than dense"


@cache
def _times(
    device: Device, shape: Shape, panel_rows: int, share: float, tokens: int, assume: Assumptions
) -> Times:
    found, all_sparse = (
        predict(device, Linear(*shape, p, panel_rows), tokens, assume=assume) for p in (share, 1.0)
    )
    return Times(
        found.dense_microseconds,
        found.microseconds,
        all_sparse.microseconds,
        found.dense_bound == "tensor",
        found.reason,
    )
