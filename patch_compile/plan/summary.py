"""What a plan promises for the whole model, as data and in words; the same in `plan`, plan.json and the report."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from patch_compile.plan.cost import CostModel
from patch_compile.plan.lowering import LinearPlan
from patch_compile.plan.outline import Outline
from patch_compile.plan.whole_model import WholeModel, predict_whole

__all__ = ["UNPREDICTED", "summarise_plan"]

UNPREDICTED = (
    "nothing is predicted, for the table of devices has no card of this target: "
    "a linear is plugin wherever a 64-wide slab of it is 2:4"
)
_NOT_MEASURED = "predictions of a roofline (docs/performance.md): nothing here is measured"
_ALONE = (
    "linears of one input count as one product where they share a node, and in the dense model, for TensorRT merges those "
    "itself; what activations and residuals in their nodes save comes on top"
)


def summarise_plan(
    plans: Mapping[str, LinearPlan], outline: Outline, costs: CostModel | None
) -> dict[str, Any]:
    """Card, workload, bytes, times of the whole model (None without a card), and remarks in words."""
    linears = list(plans.values())
    totals = {
        "bytes_before": sum(plan.bytes_before for plan in linears),
        "bytes_after": sum(plan.bytes_after for plan in linears),
    }
    if costs is None:
        return {"card": None, "workload": None, "totals": totals, "whole": None, "remarks": [UNPREDICTED]}
    whole = predict_whole(linears, outline, costs)
    return {
        "card": {"name": costs.card.name, "stands_for": costs.card.stands_for, "words": str(costs.card)},
        "workload": {**vars(costs.workload), "words": str(costs.workload)},
        "totals": totals,
        "whole": whole.row(),
        "remarks": list(_remarks(linears, whole, costs)),
    }


def _remarks(plans: list[LinearPlan], whole: WholeModel, costs: CostModel) -> Iterator[str]:
    measured = costs.card.measured
    yield measured.words if measured else _NOT_MEASURED
    name, lowerings = costs.card.name, {plan.lowering for plan in plans}
    if "plugin" in lowerings:
        yield _ALONE
    if lowerings == {"dense"}:
        yield f"every linear is dense, so nothing is gained on {name}"
    elif whole.end_to_end.planned >= whole.end_to_end.dense:
        yield (
            f"this plan is predicted slower than the dense model on {name}: its linears are too small, or too little of "
            "them is 2:4, for what the kernels do beside their products; --lowering auto leaves such linears dense"
        )
    if "split" in lowerings:
        yield "split linears count as dense: how fast TensorRT's own 2:4 tactics are is not predicted"
    reasons = {p.predicted.prefill.reason for p in plans if p.predicted and p.lowering == "plugin"} - {""}
    if reasons:
        worst = {reason.partition(" reaches ")[0]: reason for reason in sorted(reasons, reverse=True)}
        yield (
            f"prefill on {name}: {', '.join(worst.values())}: an engine holds each linear once, packed; for many tokens "
            "it is unpacked before a dense product (the dense path), for fewer mma.sp multiplies it as it is; decode "
            "steps have to make up for what that costs"
        )
