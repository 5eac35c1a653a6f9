"""Says before any work whether pruned tiles are worth their loss, and what would be better."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

from masklearn.masks.kinds.table import TWO_FOUR
from masklearn.quant.table import weight_type
from patch_compile.artifacts.plan import LittleGain
from patch_compile.artifacts.plan_of_model import RegimePoint
from patch_compile.artifacts.prediction import PAYS
from patch_compile.planning.cost import CostModel
from patch_compile.planning.lowering import LinearPlan
from patch_compile.planning.predict import predict_whole
from patch_compile.sources.plan_task import PlanTask


def little_gain(
    task: PlanTask, plans: Mapping[str, LinearPlan], costs: CostModel, points: Collection[RegimePoint]
) -> LittleGain | None:
    """Returns what is better than pruned tiles that gain less than `PAYS`; None if they gain more, or no tile is pruned.

    points: predictions of these plans for other numbers of tokens.
    """
    assert task.outline is not None
    if not any(plan.zeroed for plan in plans.values()):
        return None
    gained = predict_whole(plans.values(), task.outline, costs).end_to_end
    if gained.by_tiles >= PAYS:
        return None
    speedup, weights = max(_unpruned(task, costs))
    if gained.by_types >= max(1.0, speedup / PAYS):
        speedup, weights = gained.by_types, None
    return LittleGain(
        by_tiles=gained.by_tiles,
        weights=weights,
        unpruned=speedup,
        tokens=next((point.tokens for point in points if point.by_tiles >= PAYS), None),
    )


def _unpruned(task: PlanTask, costs: CostModel) -> Iterator[tuple[float, str | None]]:
    """Yield the speed-up without pruned tiles with each type that all linears can have, and the type."""
    linears, outline = task.linears, task.outline
    assert outline is not None
    for name in task.types_of_lowering:
        if all(weight_type(name).fits(columns) for _, columns in linears.values()):
            other = task.with_settings(weights=name, kinds=TWO_FOUR.name)
            plans = other.plan_at(dict.fromkeys(linears, 0.0), costs)
            yield predict_whole(plans.values(), outline, costs).end_to_end.speedup, name
