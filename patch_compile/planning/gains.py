"""Leaves linears dense that would not get faster on a target, so that no weight is zeroed for nothing.

The planner decides which linears gain, by the rule that lowers them:

1. A linear can gain if it is not lowered to `dense` with the most 2:4 tiles that it may have: all of its tiles, or with
   `--per-layer` the share of tiles that reaches its ratio. The ratio counts over only these linears, and only their tiles
   are chosen.
2. A linear that gets too few 2:4 tiles to gain is left dense. The linears that gain keep their tiles, and get the next
   tiles by score in its place, so that the ratio is met.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from math import prod
from typing import Any

from masklearn.choice.goal import LARGEST_RATIO, WEIGHTS, Goal
from masklearn.choice.losses import Losses
from masklearn.choice.price import Choice, InUnits, Types
from masklearn.choice.select import select
from masklearn.masks.linear_mask import LinearMask
from masklearn.masks.record import GainRecord
from patch_compile.planning.cost import CostModel
from patch_compile.planning.lowering import LinearPlan
from patch_compile.planning.tile_map import TileKinds, tile_maps

Shape = tuple[int, int]
Plans = Mapping[str, LinearPlan]
PlanTiles = Callable[[Mapping[str, TileKinds]], Plans]

ALL_SPARSE = LARGEST_RATIO  # ratio of a linear with all tiles 2:4


@dataclass(frozen=True)
class GainGoal:
    """A ratio over the linears that can gain.

    goal: leaves the other linears dense; linears: all covered linears, name to `[N, K]`; asked: number of linears with
    a ratio above 0.
    """

    goal: Goal
    linears: Mapping[str, Shape]
    asked: int

    @classmethod
    def of(
        cls, goal: Goal, linears: Mapping[str, Shape], plan_at: Callable[[Mapping[str, float]], Plans]
    ) -> GainGoal:
        """Find the linears that can gain. plan_at: plans linears that have these ratios, as they are compiled."""
        counted = goal.counted(list(linears))
        most = {name: ratio if goal.per_layer else ALL_SPARSE for name, ratio in counted.items()}
        plans = plan_at({name: most.get(name, 0.0) for name in linears})
        dense = frozenset(name for name, plan in plans.items() if not plan.uses_zeros)
        return cls(replace(goal, uncounted=dense), linears, len(counted))

    @property
    def counted(self) -> dict[str, float]:
        """Returns the linears that can gain and were not left dense, with their ratios."""
        counted = self.goal.counted(list(self.linears))
        return {name: ratio for name, ratio in counted.items() if name not in self.goal.dense}

    def settled(self, plan_for: Callable[[Goal], Plans]) -> Goal:
        """Returns the goal with which every linear that has pruned tiles gains. plan_for: chooses tiles and plans them.

        What linears save that fall out goes to linears that already gain: more tiles only make these gain more. A linear
        without tiles gets none, since a few would not make it gain.
        """
        goal = self.goal
        plans = plan_for(goal)
        while any(plan.wastes_zeros for plan in plans.values()):
            goal = goal.sparing(name for name, plan in plans.items() if not (plan.zeroed and plan.uses_zeros))
            plans = plan_for(goal)
        return goal

    def settled_evenly(self, plan_at: Callable[[Mapping[str, float]], Plans]) -> GainGoal:
        """Returns the goal for a ratio that is spread evenly over the linears, as a plan without scores assumes."""
        weights = self._weights
        return replace(self, goal=self.settled(lambda goal: plan_at(goal.evenly(weights))))

    @property
    def evenly(self) -> dict[str, float]:
        """Returns the ratio of each linear if the ratio is spread evenly."""
        return self.goal.evenly(self._weights)

    @property
    def _weights(self) -> dict[str, int]:
        return {name: prod(shape) for name, shape in self.linears.items()}

    def row(self, zeroed: Mapping[str, int], gaining: Collection[str], costs: CostModel | None) -> GainRecord:
        """Returns the number of linears that gain, and the ratio over them. zeroed: number of zeroed weights by linear."""
        weights, total, uncounted = self._weights, sum(zeroed.values()), self.goal.uncounted
        counted = sum(count for name, count in weights.items() if name not in uncounted)
        return GainRecord(
            card=costs.card.name if costs else None,
            covered=len(weights),
            asked=self.asked,
            gaining=len(gaining),
            ratio=total / sum(weights[name] for name in gaining) if gaining else 0.0,
            ratio_of_counted=total / counted if uncounted and counted else None,
            ratio_of_covered=total / sum(weights.values()),
        )


class WhereItGains(InUnits):
    """Price by zeroed weights, of which tiles in linears that would not gain save none. A linear that was left dense once
    stays dense."""

    predicts = True

    def __init__(self, gains: GainGoal, tile: Shape, plan: PlanTiles, costs: CostModel | None) -> None:
        """plan: plans tiles as they are compiled."""
        super().__init__(WEIGHTS)
        self._gains, self._tile, self._plan, self._costs = gains, tile, plan, costs

    def fill(self, losses: Losses, types: Types, goal: Goal) -> Choice:
        def plan_for(goal: Goal) -> Plans:
            kinds = select(losses.scores, losses.areas, goal).kinds
            return self._plan(tile_maps(self._gains.linears, self._tile, kinds))

        goal = self._gains.settled(plan_for)
        self._gains = replace(self._gains, goal=goal)
        return Choice(select(losses.scores, losses.areas, goal), goal, types)

    def record(self, goal: Goal, choice: Choice, masks: Mapping[str, LinearMask]) -> dict[str, Any]:
        zeroed = {name: mask.zeroed for name, mask in masks.items()}
        gains = self._gains.row(zeroed, [name for name, count in zeroed.items() if count], self._costs)
        return super().record(goal, choice, masks) | {"gains": gains, "reached": gains.reached}
