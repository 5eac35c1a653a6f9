"""Microseconds that pruned tiles save in each linear, and the speed that they reach if they are spread evenly."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from math import prod

from patch_compile.planning.cost import CostModel
from patch_compile.planning.gains import ALL_SPARSE
from patch_compile.planning.lowering import LinearPlan
from patch_compile.planning.outline import Outline
from patch_compile.planning.predict import predict_whole
from patch_compile.planning.products import cost_together, products_of
from patch_compile.planning.speed_goal import SpeedGoal, ratio_for

__all__ = ["plans_for_speed", "saved_per_weight"]


def saved_per_weight(plans: Mapping[str, LinearPlan], outline: Outline, costs: CostModel) -> dict[str, float]:
    """Returns the microseconds of the whole workload that a weight in a pruned tile saves, for each linear in which it does.

    plans: plans with all tiles of one kind. Linears that share a node save together. A node that is not faster than its
    dense product even then saves nothing.
    """
    saved: dict[str, float] = {}
    packed = [plan for plan in plans.values() if plan.lowering == "plugin"]
    for product, gated in products_of(packed, outline.nodes):
        sparse = cost_together(product, gated, costs)
        dense = cost_together([_without_sparse_slabs(plan) for plan in product], gated, costs)
        gain = costs.hybrid(dense) - costs.hybrid(sparse)
        if gain > 0 and costs.hybrid(sparse) < costs.unpruned(sparse):
            weights = sum(prod(plan.shape) for plan in product)
            saved |= {plan.name: gain / weights for plan in product}
    return saved


def plans_for_speed(
    goal: SpeedGoal,
    linears: Collection[str],
    plan_at: Callable[[Mapping[str, float]], Mapping[str, LinearPlan]],
    outline: Outline,
    costs: CostModel,
) -> dict[str, LinearPlan]:
    """Returns the plans with the smallest ratio that reaches a speed, spread evenly over the linears in which it saves time.

    plan_at: plans linears that have these ratios, as they are compiled. Raises SpeedError if no ratio reaches the speed.
    """
    savers = saved_per_weight(plan_at(dict.fromkeys(linears, ALL_SPARSE)), outline, costs)

    def plans_of(ratio: float) -> Mapping[str, LinearPlan]:
        return plan_at({name: ratio if name in savers else 0.0 for name in linears})

    ratio = ratio_for(goal, lambda ratio: predict_whole(plans_of(ratio).values(), outline, costs).end_to_end)
    plans = plans_of(ratio)
    while wasted := {plan.name for plan in plans.values() if plan.zeroed and not plan.uses_zeros}:
        savers = {name: saved for name, saved in savers.items() if name not in wasted}
        plans = plans_of(ratio)
    return dict(plans)


def _without_sparse_slabs(plan: LinearPlan) -> LinearPlan:
    return plan.model_copy(update={"slabs": plan.slabs.all_dense, "predicted": None})
