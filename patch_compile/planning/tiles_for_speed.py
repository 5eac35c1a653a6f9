"""Finds the tile map that loses the least quality for a requested speed, by the tiles' scores."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from masklearn.masks.budget import LARGEST_RATIO, Budget
from masklearn.masks.kinds.base import TileKind
from masklearn.masks.kinds.table import DENSE
from masklearn.masks.record import SpeedRecord
from masklearn.masks.select import NO_LOSSES, RoundingLosses, Scores, Selection, select
from masklearn.masks.tiles import grid_shape, weights_of_tiles
from masklearn.quant.table import FLOAT16, WeightType
from patch_compile.artifacts.prediction import PhaseRow
from patch_compile.planning.cost import CostModel
from patch_compile.planning.lowering import LinearPlan, plan_linears
from patch_compile.planning.outline import Outline
from patch_compile.planning.planner import assumed_tiles, settle_together
from patch_compile.planning.predict import predict_whole
from patch_compile.planning.products import cost_together, products_of
from patch_compile.planning.speed_goal import SpeedGoal, ratio_for, unreachable
from patch_compile.planning.tile_map import TileKinds

Grids = Mapping[str, NDArray[Any]]
Kinds = tuple[TileKind, ...]
ByKind = dict[TileKind, NDArray[np.float64]]
Shape = tuple[int, int]

_UNIT = "µs"
# Halvings of the interval of savings: the result is exact to a 65536th of the saving of all tiles.
_HALVINGS = 16


@dataclass(frozen=True)
class SpeedTask:
    """A model, and the speed that it has to reach on a card.

    linears: the covered linears, name to `[N, K]`; lowering: a value of `--lowering`; kinds: kinds that the tiles of each
    linear may have.
    """

    goal: SpeedGoal
    costs: CostModel
    outline: Outline
    linears: Mapping[str, Shape]
    tile: Shape
    lowering: str
    kinds: Mapping[str, Kinds]

    def end_to_end(self, plans: Mapping[str, LinearPlan]) -> PhaseRow:
        """Returns the predicted times of the whole workload with these plans of the linears."""
        return predict_whole(plans.values(), self.outline, self.costs).end_to_end


class TilesForSpeed:
    """Chooses tiles greedily by score over saved microseconds, until the model is predicted to be as fast as asked.

    1. A tile of a kind saves its share of the time that its linear, or the node that its linear shares, saves in the whole
       workload with all tiles of this kind over none. It saves nothing in a linear that is not lowered as `plugin`, or in a
       node that is not faster than dense even then.
    2. `select` reaches a saving exactly, to one tile. Bisection finds the smallest saving with which the model, planned with
       its real lowerings, is as fast as asked.
    3. A linear with too few chosen tiles to pay for its launch is lowered dense. Its tiles are taken back, since they save
       nothing.

    What all tiles save does not depend on their scores. So a speed is known to be reachable before anything is learned.
    """

    def __init__(self, task: SpeedTask, weights: Mapping[str, WeightType] | None = None) -> None:
        """weights: types of the quantised linears, None if all weights have 16 bits."""
        self._task, self._weights = task, weights
        self.record: SpeedRecord | None = None  # set when tiles are chosen

    def __call__(
        self,
        scores: Scores,
        areas: Grids,
        rounding: RoundingLosses = NO_LOSSES,  # noqa: ARG002
    ) -> tuple[Selection, Budget]:
        """Returns tile maps and the saving that they reach. scores: the cost of each tile, by kind, or only of 2:4.

        Raises SpeedError if no saving is enough.
        """
        saved = self.saved(areas)
        budget = Budget.saving(self._least(scores, areas, saved), _UNIT)
        chosen = select(scores, areas, budget, saved)
        while wasted := _wasted(self.plans(chosen.kinds)):
            saved |= {name: {kind: 0 * grid for kind, grid in saved[name].items()} for name in wasted}
            budget = Budget.saving(_saved_by(chosen, saved), _UNIT)
            chosen = select(scores, areas, budget, saved)
        self.record = self._recorded(chosen)
        return chosen, budget

    def assumed(self) -> dict[str, LinearPlan]:
        """Returns plans that reach the speed as if all zeroed weights lost alike: whole linears are pruned, those first that
        save most per zero.

        Raises SpeedError if no tiles are enough, as a call does with any scores.
        """
        task, most = self._task, self._saving_most_per_zero()

        def plans_of(share: float) -> dict[str, LinearPlan]:
            """Returns the plans with this share of all zeros."""
            kinds = {
                name: np.zeros(grid_shape(shape, task.tile), np.uint8) for name, shape in task.linears.items()
            }
            zeros = {name: kind.zeros * prod(task.linears[name]) for name, kind in most.items()}
            left = share * sum(zeros.values())
            for name, count in zeros.items():
                ratio = most[name].zeros * min(1.0, left / count)
                if name not in wasted:
                    kinds[name] = assumed_tiles(task.linears[name], task.tile, ratio, (most[name],)).kinds
                left = max(0.0, left - count)
            return self.plans(kinds)

        wasted: set[str] = set()
        ratio = ratio_for(task.goal, lambda ratio: task.end_to_end(plans_of(ratio / LARGEST_RATIO)))
        while found := _wasted(plans := plans_of(ratio / LARGEST_RATIO)):
            wasted |= found
        return plans

    def _saving_most_per_zero(self) -> dict[str, TileKind]:
        """Returns the kind with which all tiles of a linear save most, if any saves, those linears first that save most per
        zero."""
        found: dict[str, tuple[float, TileKind]] = {}
        for name, by_kind in self.saved(weights_of_tiles(self._task.linears, self._task.tile)).items():
            sums = {kind: float(grid.sum()) for kind, grid in by_kind.items()}
            kind = max(sums, key=lambda one: sums[one])
            if sums[kind] > 0.0:
                found[name] = (sums[kind] / (kind.zeros * prod(self._task.linears[name])), kind)
        return {name: found[name][1] for name in sorted(found, key=lambda name: -found[name][0])}

    def saved(self, areas: Grids) -> dict[str, ByKind]:
        """Returns the microseconds that each tile saves if it has a kind, `[grid]`; 0 if its type lacks the kind."""
        task, types = self._task, self._weights or {}
        saved: dict[str, ByKind] = {name: {} for name in task.linears}
        for kind in dict.fromkeys(kind for own in task.kinds.values() for kind in own):
            theirs = [name for name, own in task.kinds.items() if kind in own]
            able = {name for name in theirs if kind.goes_with(types.get(name, FLOAT16))}
            alike = {
                name: np.full(grid.shape, kind.code if name in able else DENSE.code, np.uint8)
                for name, grid in areas.items()
            }
            found = saved_per_weight(self.plans(alike), task.outline, task.costs)
            for name in theirs:
                saved[name][kind] = areas[name] * (found.get(name, 0.0) if name in able else 0.0)
        return saved

    def _least(self, scores: Scores, areas: Grids, saved: Mapping[str, ByKind]) -> float:
        """Returns the smallest saving that is enough. Raises SpeedError if pruning all tiles is not enough."""
        most = (np.max([*by_kind.values()], axis=0).sum() for by_kind in saved.values() if by_kind)
        low, high = 0.0, float(sum(most))
        if self._enough(low, scores, areas, saved):  # only by the types of the weights
            return low
        best = self._task.end_to_end(self.plans(_saving_most(saved)))
        if not self._task.goal.met(best):
            raise unreachable(self._task.goal, best)
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            enough = self._enough(middle, scores, areas, saved)
            low, high = (low, middle) if enough else (middle, high)
        return high

    def _enough(self, saving: float, scores: Scores, areas: Grids, saved: Mapping[str, ByKind]) -> bool:
        """True if the tiles that lose least for a saving make the model as fast as asked."""
        chosen = select(scores, areas, Budget.saving(saving, _UNIT), saved)
        return self._task.goal.met(self._task.end_to_end(self.plans(chosen.kinds)))

    def plans(self, kinds: Grids) -> dict[str, LinearPlan]:
        """Returns the plans of linears whose tiles have these kinds, `[grid]` of codes."""
        task = self._task
        tiles = {
            name: TileKinds(shape, task.tile, kinds[name].astype(np.uint8))
            for name, shape in task.linears.items()
        }
        plans = plan_linears(tiles, task.lowering, task.costs, self._weights)
        return settle_together(plans, task.lowering, task.outline, task.costs)

    def _recorded(self, chosen: Selection) -> SpeedRecord:
        """Returns the record of the choice. Cost and bound have the unit of the scores.

        The bound comes from the linear program, which may cut tiles.
        """
        (fill,) = chosen.fills
        return SpeedRecord(
            goal=str(self._task.goal),
            card=self._task.costs.card.name,
            saved_us=fill.saved,
            tiles=fill.tiles,
            cost=fill.cost,
            bound=fill.bound,
            gap=fill.gap / fill.bound if fill.bound else 0.0,
        )


def saved_per_weight(plans: Mapping[str, LinearPlan], outline: Outline, costs: CostModel) -> dict[str, float]:
    """Returns the microseconds of the whole workload that a weight in a pruned tile saves, for each linear in which it does.

    plans: plans with all tiles of one kind. Linears that share a node save together. A node that is not faster than its
    dense product even then saves nothing.
    """
    saved: dict[str, float] = {}
    packed = [plan for plan in plans.values() if plan.lowering == "plugin"]
    for product, gated in products_of(packed, outline.nodes_of(packed)):
        sparse = cost_together(product, gated, costs)
        dense = cost_together([_without_sparse_slabs(plan) for plan in product], gated, costs)
        gain = costs.hybrid(dense) - costs.hybrid(sparse)
        if gain > 0 and costs.hybrid(sparse) < costs.unpruned(sparse):
            weights = sum(prod(plan.shape) for plan in product)
            saved |= {plan.name: gain / weights for plan in product}
    return saved


def _wasted(plans: Mapping[str, LinearPlan]) -> set[str]:
    """Returns the linears with pruned tiles that are lowered dense after all."""
    return {name for name, plan in plans.items() if plan.tiles.sparse and not plan.uses_zeros}


def _saved_by(chosen: Selection, saved: Mapping[str, ByKind]) -> float:
    pruned = (
        grid[chosen.kinds[name] == kind.code].sum()
        for name, own in saved.items()
        for kind, grid in own.items()
    )
    return float(sum(pruned))


def _saving_most(saved: Mapping[str, ByKind]) -> dict[str, NDArray[np.uint8]]:
    """Returns the codes of the kinds with which tiles save most, `[grid]`; dense where none saves."""
    codes: dict[str, NDArray[np.uint8]] = {}
    for name, by_kind in saved.items():
        kinds = np.array([DENSE.code, *(kind.code for kind in by_kind)], np.uint8)
        grids = [*by_kind.values()]
        codes[name] = kinds[np.argmax([0 * grids[0], *grids], axis=0)]
    return codes


def _without_sparse_slabs(plan: LinearPlan) -> LinearPlan:
    return plan.model_copy(update={"slabs": plan.slabs.all_dense, "predicted": None})
