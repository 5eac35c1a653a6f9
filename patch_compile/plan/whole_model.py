"""Predicted milliseconds of a whole model, dense and as planned, and the limits that no plan can pass."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from patch_compile.plan.cost import CostModel, Times
from patch_compile.plan.lowering import LinearPlan, Lowering
from patch_compile.plan.outline import Outline
from patch_compile.plan.roofline.end_to_end import rest_of
from patch_compile.plan.roofline.linear_roofline import Linear, dense_time, speedup_limit

__all__ = ["Phase", "WholeModel", "predict_whole"]


@dataclass(frozen=True)
class Phase:
    """Milliseconds of a phase of the workload, of the dense and of the planned model, and the limit of their ratio."""

    dense: float
    planned: float
    limit: float

    @property
    def speedup(self) -> float:
        """Dense over planned time; 1 for a phase that does not occur."""
        return self.dense / self.planned if self.planned else 1.0

    def row(self) -> dict[str, float]:
        """For JSON."""
        return {
            "dense_ms": self.dense,
            "planned_ms": self.planned,
            "speedup": self.speedup,
            "limit": self.limit,
        }


@dataclass(frozen=True)
class WholeModel:
    """The prompt, and all decode steps after it."""

    prefill: Phase
    decode: Phase

    @property
    def end_to_end(self) -> Phase:
        """Both; each phase has its own limit."""
        dense = self.prefill.dense + self.decode.dense
        least = self.prefill.dense / self.prefill.limit + self.decode.dense / self.decode.limit
        return Phase(dense, self.prefill.planned + self.decode.planned, dense / least)

    def row(self) -> dict[str, Any]:
        """For JSON."""
        phases = {"prefill": self.prefill, "decode": self.decode, "end_to_end": self.end_to_end}
        return {name: phase.row() for name, phase in phases.items()}


def predict_whole(plans: Collection[LinearPlan], outline: Outline, costs: CostModel) -> WholeModel:
    """Linears as they are planned, and all else as in the dense model. What TensorRT makes of `split` is not predicted:
    it counts as dense. Every plan has its times.
    """
    load, device = costs.workload, costs.card.device
    prefill, step = rest_of(device, outline.model, load.batch, load.prompt, load.generated)
    prefill += sum(
        dense_time(device, Linear(*shape, 0.0), load.prefill_tokens)[0] for shape in outline.others
    )
    step += sum(dense_time(device, Linear(*shape, 0.0), load.batch)[0] for shape in outline.others)
    costed = [(plan.lowering, plan.predicted) for plan in plans if plan.predicted]
    share = sum(2 * plan.zeroed for plan in plans) / sum(plan.shape[0] * plan.shape[1] for plan in plans)
    of_prompt = [(lowering, cost.prefill) for lowering, cost in costed]
    of_step = [(lowering, cost.decode) for lowering, cost in costed]
    # With many sequences the tensor cores are the limit of decode too, and 2:4 saves them more than bytes.
    bound = "tensor" if any(times.tensor_bound for _, times in of_step) else "bytes"
    return WholeModel(
        _phase(of_prompt, prefill, 1, speedup_limit(share, "tensor")),
        _phase(of_step, step, load.steps, speedup_limit(share, bound)),
    )


def _phase(linears: Collection[tuple[Lowering, Times]], rest: float, runs: int, limit: float) -> Phase:
    dense = rest + sum(times.dense for _, times in linears)
    planned = rest + sum(times.hybrid if how == "plugin" else times.dense for how, times in linears)
    return Phase(runs * dense / 1e3, runs * planned / 1e3, limit)
