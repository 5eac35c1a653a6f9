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
    """Returns the predicted speed-up of the whole model for a prompt of each length, with the lowerings of the plan.

    An encoder gets as many sequences of the workload's length as have so many tokens.
    """
    points, longest = [], costs.workload.prompt if outline.model.encoder else max(tokens)
    for count in tokens:
        sequences = max(1, count // longest)
        load = Workload(batch=sequences, prompt=min(count, longest), generated=1)
        costs = replace(costs, workload=load)
        asked = [plan.model_copy(update={"predicted": None}) for plan in plans]
        row = predict_whole(asked, outline, costs).prefill
        points.append(
            RegimePoint(
                tokens=load.prefill_tokens, sequences=sequences, speedup=row.speedup, by_tiles=row.by_tiles
            )
        )
    return tuple(points)
