"""Price of tiles and weight types in microseconds of a workload, by the real lowerings of a model."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from masklearn.choice.goal import Goal
from masklearn.choice.losses import Grids, Losses, Points, assumed_loss
from masklearn.choice.price import Choice, Price, Savings, Types
from masklearn.choice.select import Selection, select, selector
from masklearn.choice.solve import Chooser, savings_by_type
from masklearn.masks.kinds.base import TileKind
from masklearn.masks.kinds.table import DENSE, TWO_FOUR
from masklearn.masks.linear_mask import LinearMask
from masklearn.masks.tiles import weights_of_tiles
from masklearn.quant.table import FLOAT16, WeightType
from patch_compile.artifacts.prediction import PhaseRow
from patch_compile.errors import SpeedError
from patch_compile.planning.cost import CostModel, TimeOf
from patch_compile.planning.lowering import LinearPlan
from patch_compile.planning.outline import Outline
from patch_compile.planning.planner import plan_model
from patch_compile.planning.predict import predict_whole
from patch_compile.planning.products import InputGroup, cost_together, products_of
from patch_compile.planning.speed_goal import SpeedGoal, unreachable
from patch_compile.planning.tile_map import tile_maps

Allowed = tuple[WeightType, ...]
Kinds = tuple[TileKind, ...]
Shape = tuple[int, int]

UNIT = "µs"
# Halvings of the interval of savings: the result is exact to a 65536th of the saving of all tiles.
_HALVINGS = 16


@dataclass(frozen=True)
class SpeedTask:
    """A model, and the speed that it has to reach on a card.

    linears: the covered linears, name to `[N, K]`; lowering: a value of `--lowering`; kinds, types: what the tiles and the
    weights of each linear may be.
    """

    goal: SpeedGoal
    costs: CostModel
    outline: Outline
    linears: Mapping[str, Shape]
    tile: Shape
    lowering: str
    kinds: Mapping[str, Kinds]
    types: Mapping[str, Allowed]

    def end_to_end(self, kinds: Grids, types: Types) -> PhaseRow:
        """Returns the predicted times of the whole workload. kinds: codes of the kinds of tiles, `[grid]`."""
        return predict_whole(self.plans(kinds, types).values(), self.outline, self.costs).end_to_end

    def plans(self, kinds: Grids, types: Types) -> dict[str, LinearPlan]:
        """Returns the plans of linears whose tiles have these kinds, codes `[grid]`, and whose weights these types."""
        tiles = tile_maps(self.linears, self.tile, kinds)
        quantised = {name: weights for name, weights in types.items() if weights.quantised}
        return plan_model(tiles, self.lowering, self.outline, self.costs, quantised)

    @cached_property
    def areas(self) -> dict[str, NDArray[np.int64]]:
        """Weights of each tile, `[grid]` by linear."""
        return weights_of_tiles(self.linears, self.tile)

    @cached_property
    def all_dense(self) -> dict[str, NDArray[np.uint8]]:
        """Codes of the kinds of tiles that are all dense."""
        return {name: np.zeros(grid.shape, np.uint8) for name, grid in self.areas.items()}

    @cached_property
    def inputs(self) -> dict[str, str]:
        """By linear, the first covered linear with the same inputs."""
        numbers = {name: number for number, group in enumerate(self.outline.groups) for name in group.linears}
        first: dict[int | str, str] = {}
        return {name: first.setdefault(numbers.get(name, name), name) for name in self.linears}


class ByTime(Price):
    """Price in predicted microseconds, of which a saving is filled until the model is predicted to be as fast as asked.

    1. A type saves the difference between the times of a node with dense 16-bit weights and with dense weights of the type,
       of which each linear of the node gets its share.
    2. A tile of a kind saves its share of the time that its linear, or the node that its linear shares, saves in the whole
       workload with all tiles of this kind over none. It saves nothing in a linear that is not lowered as `plugin`, or in a
       node that is not faster than dense even then.
    3. `select` reaches a saving exactly, to one tile. Bisection finds the smallest saving with which the model, planned with
       its real lowerings, is as fast as asked.
    4. A linear with too few chosen tiles to pay for its launch is lowered dense. Its tiles are taken back, since they save
       nothing.

    What all tiles save does not depend on their scores. So a speed is known to be reachable before anything is learned.
    """

    def __init__(self, task: SpeedTask) -> None:
        self._task = task

    def amount(self, goal: Goal) -> float:  # noqa: ARG002
        """Returns the microseconds that the model of dense 16-bit weights has to lose."""
        dense = self._task.end_to_end(self._task.all_dense, {}).dense_ms
        return 1e3 * (dense - self._task.goal.milliseconds(dense))

    def of_types(self, types: Types, losses: Losses | None = None) -> dict[str, float]:  # noqa: ARG002
        whole, taken = self._whole, self._microseconds(types)
        return {name: whole[name] - taken[name] for name in whole}

    def of_tiles(self, types: Types, losses: Losses | None = None) -> dict[str, Points]:  # noqa: ARG002
        """Returns the microseconds that each tile saves if it has a kind, `[grid]`; 0 if its type lacks the kind."""
        task = self._task
        saved: dict[str, Points] = {name: {} for name in task.linears}
        for kind in dict.fromkeys(kind for own in task.kinds.values() for kind in own):
            theirs = [name for name, own in task.kinds.items() if kind in own]
            able = {name for name in theirs if kind.goes_with(types.get(name, FLOAT16))}
            alike = {
                name: np.full(grid.shape, kind.code if name in able else DENSE.code, np.uint8)
                for name, grid in task.areas.items()
            }
            per_weight = saved_per_weight(task.plans(alike, types), task.outline, task.costs)
            for name in theirs:
                saved[name][kind] = task.areas[name] * (per_weight.get(name, 0.0) if name in able else 0.0)
        return saved

    def fill(self, losses: Losses, types: Types, goal: Goal) -> Choice | None:
        saved = self.of_tiles(types)
        least = self._least(losses, types, saved)
        if least is None:
            return None
        goal = Goal.saving(least, UNIT)
        chosen = select(losses.scores, losses.areas, goal, saved)
        while wasted := [
            plan.name for plan in self._task.plans(chosen.kinds, types).values() if plan.wastes_zeros
        ]:
            saved |= {name: {kind: 0 * grid for kind, grid in saved[name].items()} for name in wasted}
            goal = Goal.saving(_saved_by(chosen, saved), UNIT)
            chosen = select(losses.scores, losses.areas, goal, saved)
        return Choice(chosen, goal, types, losses.of_rounding(types))

    def refusal(self, losses: Losses, types: Iterable[Types]) -> SpeedError:  # noqa: ARG002
        refused = [unreachable(self._task.goal, self._fastest(own, self.of_tiles(own))) for own in types]
        return min(refused, key=lambda error: error.fastest)

    def record(self, goal: Goal, choice: Choice, masks: Mapping[str, LinearMask]) -> dict[str, Any]:  # noqa: ARG002
        task = self._task
        reached = task.goal.compared(task.end_to_end(choice.tiles.kinds, choice.types))
        return {**reached, "card": task.costs.card.name}

    def _least(self, losses: Losses, types: Types, saved: Mapping[str, Points]) -> float | None:
        """Returns the smallest saving that is enough, None if pruning all tiles is not."""
        goal, select_for = self._task.goal, selector(losses.scores, losses.areas, UNIT, saved)

        def enough(saving: float) -> bool:
            return goal.met(self._task.end_to_end(select_for(Goal.saving(saving, UNIT)).kinds, types))

        most = (np.max([*by_kind.values()], axis=0).sum() for by_kind in saved.values() if by_kind)
        low, high = 0.0, float(sum(most))
        if enough(low):  # only by the types of the weights
            return low
        if not goal.met(self._fastest(types, saved)):
            return None
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            low, high = (low, middle) if enough(middle) else (middle, high)
        return high

    def _fastest(self, types: Types, saved: Mapping[str, Points]) -> PhaseRow:
        return self._task.end_to_end(_saving_most(saved), types)

    @cached_property
    def _whole(self) -> dict[str, float]:
        return self._microseconds({})

    def _microseconds(self, types: Types) -> dict[str, float]:
        """Returns each linear's share, by weights, of the time that its product takes in the workload, all tiles dense."""
        task, costs = self._task, self._task.costs
        plans = task.plans(task.all_dense, types).values()
        packed = [plan for plan in plans if plan.lowering == "plugin"]
        others = [*(plan for plan in plans if plan.lowering != "plugin"), *task.outline.others]

        def shares(
            plans: Collection[LinearPlan], groups: Collection[InputGroup], of: TimeOf
        ) -> Iterator[tuple[str, float]]:
            for product, gated in products_of(plans, groups):
                time = costs.total(cost_together(product, gated, costs), of)
                weights = sum(prod(plan.shape) for plan in product)
                yield from ((plan.name, time * prod(plan.shape) / weights) for plan in product)

        of_packed = shares(packed, task.outline.nodes_of(packed), "hybrid")
        share = dict((*of_packed, *shares(others, task.outline.groups, "dense")))
        return {name: share[name] for name in task.linears}


def by_time(task: SpeedTask, sure: Types | None = None) -> Chooser:
    """Returns the chooser for the speed of a task; sure: types that reach it with any scores, if they are known."""
    return Chooser(task.types, ByTime(task), Goal.saving(0.0, UNIT), sure=sure)


def assumed_choice(task: SpeedTask) -> Choice:
    """Returns the choice of a plan, which knows no scores. Raises SpeedError if no choice reaches the speed."""
    return by_time(task)(Losses.assumed(task.areas, task.kinds, task.inputs))


def that_save(task: SpeedTask) -> tuple[dict[str, Allowed], dict[str, Kinds]]:
    """Returns the types and the kinds of tiles of each linear, without those that no best choice has.

    A type has no use if another, which loses less by rounding, saves as much with all of the linear's tiles. A kind has none
    if its tiles save nothing; 2:4 stays where no kind saves.
    """
    savings = savings_by_type(task.types, ByTime(task), Losses({}, task.areas))
    used: dict[str, set[WeightType]] = {}
    for name, first in task.inputs.items():
        used.setdefault(first, set()).update(_needed(task.types[name], name, savings))
    types = {
        name: tuple(kind for kind in task.types[name] if kind in used[first])
        for name, first in task.inputs.items()
    }
    kinds = {
        name: tuple(
            kind for kind in own if any(savings[weights].tiles[name][kind].any() for weights in types[name])
        )
        or (TWO_FOUR,)
        for name, own in task.kinds.items()
    }
    return types, kinds


def _needed(
    options: Sequence[WeightType], name: str, savings: Mapping[WeightType, Savings]
) -> Iterator[WeightType]:
    """Yield the types of a linear that save more than every type that loses less, with some choice of tiles."""
    by_loss = sorted(options, key=assumed_loss)
    for number, kind in enumerate(by_loss):
        if not any(savings[better].covers(savings[kind], name) for better in by_loss[:number]):
            yield kind


def saved_per_weight(plans: Mapping[str, LinearPlan], outline: Outline, costs: CostModel) -> dict[str, float]:
    """Returns the microseconds of the whole workload that a weight in a pruned tile saves, for each linear in which it does.

    plans: plans with all tiles of one kind. Linears that share a node save together. A node that is not faster than its
    dense product even then saves nothing.
    """
    saved: dict[str, float] = {}
    packed = [plan for plan in plans.values() if plan.lowering == "plugin"]
    for product, gated in products_of(packed, outline.nodes_of(packed)):
        sparse = cost_together(product, gated, costs)
        unpruned = [plan.all_dense().model_copy(update={"predicted": None}) for plan in product]
        dense = cost_together(unpruned, gated, costs)
        planned = costs.total(sparse, "hybrid")
        gain = costs.total(dense, "hybrid") - planned
        if gain > 0 and planned < costs.total(sparse, "unpruned"):
            weights = sum(prod(plan.shape) for plan in product)
            saved |= {plan.name: gain / weights for plan in product}
    return saved


def _saved_by(chosen: Selection, saved: Mapping[str, Points]) -> float:
    pruned = (
        grid[chosen.kinds[name] == kind.code].sum()
        for name, own in saved.items()
        for kind, grid in own.items()
    )
    return float(sum(pruned))


def _saving_most(saved: Mapping[str, Points]) -> dict[str, NDArray[np.uint8]]:
    """Returns the codes of the kinds with which tiles save most, `[grid]`; dense where none saves."""
    codes: dict[str, NDArray[np.uint8]] = {}
    for name, by_kind in saved.items():
        kinds = np.array([DENSE.code, *(kind.code for kind in by_kind)], np.uint8)
        grids = [*by_kind.values()]
        codes[name] = kinds[np.argmax([0 * grids[0], *grids], axis=0)]
    return codes
