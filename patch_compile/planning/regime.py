"""Predicts how much a plan gains with more or fewer tokens in a pass: which regime pays."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from patch_compile.artifacts.plan_of_model import RegimePoint
from patch_compile.artifacts.prediction import Workload
from patch_compile.planning.cost import CostModel
from patch_compile.planning.lowering import LinearPlan
from patch_compile.planning.outline import Outline
from patch_compile.planning.predict import predict_whole

TOKENS = tuple(1 << power for power in range(14))


def regime(
    plans: Collection[LinearPlan], outline: Outline, costs: CostModel, tokens: Collection[int] = TOKENS
) -> tuple[RegimePoint, ...]:
    """Returns the predicted speed-up of the whole model for a prompt of each length, with the lowerings of the plan."""
    points = []
    for count in tokens:
        costs = replace(costs, workload=Workload(batch=1, prompt=count, generated=1))
        asked = [plan.model_copy(update={"predicted": None}) for plan in plans]
        whole = predict_whole(asked, outline, costs)
        points.append(RegimePoint(tokens=count, speedup=whole.prefill.speedup))
    return tuple(points)
