"""Finds the weight types, and with them the tile map, that lose the least quality for a requested speed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import prod

import numpy as np
from numpy.typing import NDArray

from masklearn.masks.budget import Budget
from masklearn.masks.kinds.table import TWO_FOUR
from masklearn.masks.record import SpeedRecord
from masklearn.masks.select import NO_LOSSES, ChoosesTypes, RoundingLoss, RoundingLosses, Scores, Selection
from masklearn.masks.select_types import (
    NEAR,
    Filled,
    TypeChoices,
    TypeSavings,
    least_loss,
    rounding_cost,
)
from masklearn.masks.tiles import weights_of_tiles
from masklearn.quant.table import INT4, INT8, W8A8, WeightType
from patch_compile.errors import SpeedError
from patch_compile.planning.lowering import LinearPlan
from patch_compile.planning.products import cost_together, products_of
from patch_compile.planning.tiles_for_speed import Grids, SpeedTask, TilesForSpeed

Types = dict[str, WeightType]

# Loss of rounding a linear, as a share of what it loses with every tile 2:4, for plans, which know no scores. Measured with
# the scores of `learn --weights auto` (relative output error, 16 windows) on the 35 linears of blocks 2, 9, 16, 23 and 29 of
# SmolLM2-135M. Single linears reach from .0005 to .0035 (int8) and from .056 to .22 (int4). w8a8 has the shares of the whole
# model's loss: smoothed, its perplexity rises from 30.64 to 30.90, by .008 nats, and with every tile 2:4 from 29.2 to 100.3.
_ASSUMED = {INT8: 0.0007, W8A8: 0.0065, INT4: 0.084}
_NEAR_IN_PLANS = (1.0, 1.02)  # shares of the saving whose types are tried in a plan without scores


class TypesForSpeed(ChoosesTypes):
    """Chooses weight types and tiles, until the model is predicted to be as fast as asked.

    1. A type saves the difference between the times of a node with dense 16-bit weights and with dense weights of the type,
       of which each linear of the node gets its share. Pruned tiles save more, as `TilesForSpeed` counts for given types.
    2. The types that are best at a few prices of a microsecond are tried (`TypeChoices`). With each of them `TilesForSpeed`
       prunes as many tiles as the speed takes, planned with real lowerings. The types with the least loss, of rounding and
       pruning together, are taken.
    """

    def __init__(self, task: SpeedTask, options: Mapping[str, tuple[WeightType, ...]]) -> None:
        """options: types that each linear may have."""
        self._task, self._options = task, options
        self.record: SpeedRecord | None = None  # set when tiles are chosen

    def __call__(
        self, scores: Scores, areas: Grids, rounding: RoundingLosses = NO_LOSSES
    ) -> tuple[Selection, Budget]:
        """Returns tile maps with types, and the saving that the tiles reach in addition to the types.

        scores: the cost of each tile, by kind, or only of 2:4; rounding: the cost of the types. Raises SpeedError if no
        choice is fast enough.
        """
        records: dict[tuple[str, ...], SpeedRecord] = {}

        def fill(types: Types) -> Filled:
            chooser = self._tiles(types)
            selection, budget = chooser(scores, areas)
            lost = rounding_cost(types, rounding)
            assert chooser.record is not None
            records[_spelled(types)] = chooser.record.model_copy(update={"rounding": lost})
            chosen = Selection(selection.kinds, selection.fills, types)
            return Filled(types, chosen, budget, lost + chooser.record.cost)

        found = self._cheapest(scores, areas, rounding, fill)
        self.record = records[_spelled(found.types)]
        return found.selection, found.budget

    def assumed(self, plans_with: Callable[[Types], Mapping[str, LinearPlan]]) -> Types:
        """Returns the types for a plan without scores, in which all weights of a linear lose alike.

        plans_with: plans the linears with these types and the least ratio that reaches the speed, or raises SpeedError if
        none does. Raises SpeedError if no types reach the speed.
        """
        task = self._task
        areas = weights_of_tiles(task.linears, task.tile)
        scores = {
            name: {kind: areas[name] * (kind.zeros / TWO_FOUR.zeros) for kind in task.kinds[name]}
            for name in task.linears
        }
        inputs = {name: one.linears[0] for one in task.outline.groups for name in one.linears}
        rounding = {
            name: RoundingLoss(
                {kind: share * prod(shape) for kind, share in _ASSUMED.items()}, inputs.get(name, name)
            )
            for name, shape in task.linears.items()
        }

        def fill(types: Types) -> Filled:
            zeroed = sum(plan.zeroed for plan in plans_with(types).values())
            loss = rounding_cost(types, rounding) + zeroed / TWO_FOUR.zeros
            return Filled(types, Selection({}, ()), Budget(), loss)

        return self._cheapest(scores, areas, rounding, fill, _NEAR_IN_PLANS).types

    def _cheapest(
        self,
        scores: Scores,
        areas: Grids,
        rounding: RoundingLosses,
        fill: Callable[[Types], Filled],
        shares: Sequence[float] = NEAR,
    ) -> Filled:
        """Returns the types with the least loss among those near the saving that the speed takes.

        If none of these reaches the speed, it returns the fastest types. Raises the SpeedError of `fill` if these don't
        reach it either.
        """
        choices = TypeChoices(self._options, scores, rounding, self._savings(areas))

        def reached(types: Types) -> Filled | None:
            try:
                return fill(types)
            except SpeedError:
                return None

        near = choices.near(self._amount(areas), shares)
        return least_loss(near, rounding, reached) or fill(choices.saving_most())

    def _tiles(self, types: Types) -> TilesForSpeed:
        return TilesForSpeed(self._task, {name: kind for name, kind in types.items() if kind.quantised})

    def _amount(self, areas: Grids) -> float:
        """Returns the microseconds that the model of dense 16-bit weights has to lose."""
        dense = self._task.end_to_end(self._tiles({}).plans(_dense(areas))).dense_ms
        return 1e3 * (dense - self._task.goal.milliseconds(dense))

    def _savings(self, areas: Grids) -> dict[WeightType, TypeSavings]:
        """Returns what each type saves. Nobody reads the figures of a linear that may not have the type."""
        whole = self._microseconds({}, areas)
        found = {}
        for kind in dict.fromkeys(kind for own in self._options.values() for kind in own):
            types = {name: kind if kind in own else own[0] for name, own in self._options.items()}
            taken = self._microseconds(types, areas)
            dense = {name: whole[name] - taken[name] for name in whole}
            found[kind] = TypeSavings(dense, self._tiles(types).saved(areas))
        return found

    def _microseconds(self, types: Types, areas: Grids) -> dict[str, float]:
        """Returns each linear's share, by weights, of the time that its product takes in the workload, all tiles dense."""
        outline, costs = self._task.outline, self._task.costs
        plans = self._tiles(types).plans(_dense(areas)).values()
        packed = [plan for plan in plans if plan.lowering == "plugin"]
        others = [*(plan for plan in plans if plan.lowering != "plugin"), *outline.others]
        found: dict[str, float] = {}
        for planned, groups, time_of in (
            (packed, outline.nodes, costs.hybrid),
            (others, outline.groups, costs.dense),
        ):
            for product, gated in products_of(planned, groups):
                time = time_of(cost_together(product, gated, costs))
                weights = sum(prod(plan.shape) for plan in product)
                found |= {plan.name: time * prod(plan.shape) / weights for plan in product}
        return {name: found[name] for name in self._task.linears}


def _dense(areas: Grids) -> dict[str, NDArray[np.uint8]]:
    return {name: np.zeros(grid.shape, np.uint8) for name, grid in areas.items()}


def _spelled(types: Types) -> tuple[str, ...]:
    return tuple(f"{name}={kind}" for name, kind in types.items())
