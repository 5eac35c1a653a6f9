"""Finds the tile map that loses the least quality for a requested speed, by the tiles' scores."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from masklearn.masks.budget import Budget
from masklearn.masks.linear_mask import LinearMask
from masklearn.masks.record import SpeedRecord
from masklearn.masks.select import Selection, select
from masklearn.masks.tiles import sparse_groups
from patch_compile.packing.format import SLAB_K, choose_panel_rows
from patch_compile.plan.cost import CostModel
from patch_compile.plan.lowering import LinearPlan, plan_linears
from patch_compile.plan.lowering_patterns import asked_lowerings
from patch_compile.plan.outline import Outline
from patch_compile.plan.planner import settle_together
from patch_compile.plan.predict import PhaseTimes, predict_whole
from patch_compile.plan.speed_goal import SpeedGoal, unreachable

__all__ = ["TilesForSpeed"]

Grids = Mapping[str, NDArray[Any]]
Shape = tuple[int, int]

_UNIT = "µs"
# Halvings of the interval of savings: the result is exact to a 65536th of the saving of all tiles.
_HALVINGS = 16


class TilesForSpeed:
    """Chooses tiles greedily by score over saved microseconds, until the model is predicted to be as fast as asked.

    1. A tile saves its share of the time that its linear saves in the whole workload with all tiles 2:4 over none. It saves
       nothing in a linear that is not lowered as `plugin`, or that is no faster than dense even with all tiles 2:4.
    2. `select` reaches a saving exactly, to one tile. Bisection finds the smallest saving with which the model, planned with
       its real lowerings, is as fast as asked.
    3. A linear with too few chosen tiles to pay for its launch is lowered dense. Its tiles are taken back, since they save
       nothing.
    """

    def __init__(
        self,
        goal: SpeedGoal,
        costs: CostModel,
        outline: Outline,
        linears: Mapping[str, Shape],
        tile: Shape,
        lowering: str,
    ) -> None:
        """Choose tiles for a goal. linears: the covered ones, name to `[N, K]`; lowering: a value of `--lowering`."""
        self._goal, self._costs, self._outline = goal, costs, outline
        self._linears, self._tile, self._lowering = linears, tile, lowering
        self.record: SpeedRecord | None = None  # set when tiles are chosen

    def __call__(self, scores: Grids, areas: Grids) -> tuple[Selection, Budget]:
        """Returns tile maps and the saving that they reach. scores: the cost of each tile.

        Raises SpeedError if no saving is enough.
        """
        saved = self._saved(areas)
        amount = self._least(scores, areas, saved)
        wasted = self._wasted(select(scores, areas, Budget.saving(amount, _UNIT), saved), saved)
        amount -= sum(wasted.values())
        saved |= {name: np.zeros_like(saved[name]) for name in wasted}
        budget = Budget.saving(max(0.0, amount), _UNIT)
        chosen = select(scores, areas, budget, saved)
        self.record = self._recorded(chosen)
        return chosen, budget

    def _saved(self, areas: Grids) -> dict[str, NDArray[np.float64]]:
        """Returns the microseconds that each tile saves, `[grid]`."""
        asked = asked_lowerings(self._lowering, list(self._linears))
        saved = {}
        for name, shape in self._linears.items():
            all_of_it = self._all_saved(shape) if asked[name] in ("auto", "plugin") else 0.0
            saved[name] = areas[name] * (all_of_it / (shape[0] * shape[1]))
        return saved

    def _all_saved(self, shape: Shape) -> float:
        rows = choose_panel_rows(shape, self._tile)
        cost = self._costs.of(shape, rows, -(-shape[0] // rows) * -(-shape[1] // SLAB_K), 0)
        none, all_of_it = self._costs.hybrid(cost), self._costs.sparse(cost)
        return max(0.0, none - all_of_it) if all_of_it < self._costs.dense(cost) else 0.0

    def _least(self, scores: Grids, areas: Grids, saved: Grids) -> float:
        """Returns the smallest saving that is enough. Raises SpeedError if that of all tiles is not."""
        low, high = 0.0, float(sum(grid.sum() for grid in saved.values()))
        best = self._end_to_end(select(scores, areas, Budget.saving(high, _UNIT), saved))
        if not self._goal.met(best):
            raise unreachable(self._goal, best)
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            enough = self._goal.met(
                self._end_to_end(select(scores, areas, Budget.saving(middle, _UNIT), saved))
            )
            low, high = (low, middle) if enough else (middle, high)
        return high

    def _wasted(self, chosen: Selection, saved: Grids) -> dict[str, float]:
        """Returns the savings that were counted for tiles in linears that are lowered dense after all."""
        plans = self._plans(chosen)
        return {
            name: float(saved[name][tiles].sum())
            for name, tiles in chosen.items()
            if tiles.any() and plans[name].lowering == "dense"
        }

    def _end_to_end(self, tiles: Grids) -> PhaseTimes:
        return predict_whole(self._plans(tiles).values(), self._outline, self._costs).end_to_end

    def _plans(self, tiles: Grids) -> dict[str, LinearPlan]:
        masks = {
            name: _with_any_pattern(shape, self._tile, tiles[name]) for name, shape in self._linears.items()
        }
        plans = plan_linears(masks, self._lowering, self._costs)
        return settle_together(plans, self._lowering, self._outline, self._costs)

    def _recorded(self, chosen: Selection) -> SpeedRecord:
        """Returns the record of the choice. Cost and bound have the unit of the scores.

        The bound is that of the linear program, which may cut tiles.
        """
        (fill,) = chosen.fills
        return SpeedRecord(
            goal=str(self._goal),
            card=self._costs.card.name,
            saved_us=fill.saved,
            tiles=fill.tiles,
            cost=fill.cost,
            bound=fill.bound,
            gap=fill.gap / fill.bound if fill.bound else 0.0,
        )


def _with_any_pattern(shape: Shape, tile: Shape, tiles: NDArray[np.bool_]) -> LinearMask:
    return LinearMask(shape, tile, tiles, np.zeros(sparse_groups(tiles, shape, tile), np.uint8))
