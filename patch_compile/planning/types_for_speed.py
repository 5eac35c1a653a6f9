"""Finds the weight types, and with them the tile map, that lose the least quality for a requested speed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from math import prod

import numpy as np
from numpy.typing import NDArray

from masklearn.masks.budget import Budget
from masklearn.masks.kinds.base import TileKind
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
from patch_compile.planning.products import cost_together, products_of
from patch_compile.planning.tiles_for_speed import Grids, SpeedTask, TilesForSpeed

Types = dict[str, WeightType]
Allowed = tuple[WeightType, ...]
Kinds = tuple[TileKind, ...]

# Loss of rounding a linear, as a share of what it loses with every tile 2:4, for plans, which know no scores. Measured with
# the scores of `learn --weights auto` (relative output error, 16 windows) on the 35 linears of blocks 2, 9, 16, 23 and 29 of
# SmolLM2-135M. Single linears reach from .0005 to .0035 (int8) and from .056 to .22 (int4). w8a8 has the shares of the whole
# model's loss: smoothed, its perplexity rises from 30.64 to 30.90, by .008 nats, and with every tile 2:4 from 29.2 to 100.3.
_ASSUMED: Mapping[WeightType, float] = {INT8: 0.0007, W8A8: 0.0065, INT4: 0.084}
_NEAR_IN_PLANS = (1.0, 1.02)  # shares of the saving whose types are tried in a plan without scores


class TypesForSpeed(ChoosesTypes):
    """Chooses weight types and tiles, until the model is predicted to be as fast as asked.

    1. A type saves the difference between the times of a node with dense 16-bit weights and with dense weights of the type,
       of which each linear of the node gets its share. Pruned tiles save more, as `TilesForSpeed` counts for given types.
    2. The types that are best at a few prices of a microsecond are tried (`TypeChoices`). With each of them `TilesForSpeed`
       prunes as many tiles as the speed takes, planned with real lowerings. The types with the least loss, of rounding and
       pruning together, are taken.
    """

    def __init__(self, task: SpeedTask, options: Mapping[str, Allowed], sure: Types | None = None) -> None:
        """options: types that each linear may have; sure: types that reach the speed with any scores, if they are known."""
        self._task, self._options, self._sure = task, options, sure
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
            records[_spelled(types)] = chooser.record.model_copy(
                update={"rounding": lost, "speedup": self._speedup(types, selection.kinds)}
            )
            chosen = Selection(selection.kinds, selection.fills, types)
            return Filled(types, chosen, budget, lost + chooser.record.cost)

        savings = self._savings(areas)
        choices = TypeChoices(self._options, scores, rounding, savings)
        found = self._cheapest(choices, areas, rounding, fill)
        saved = sum(
            savings[found.types[name]].of(name, kinds) for name, kinds in found.selection.kinds.items()
        )
        self.record = records[_spelled(found.types)].model_copy(
            update={
                "least": choices.bound(saved),
                "by_types": self._speedup(found.types, _dense(areas)),
            }
        )
        return found.selection, found.budget

    def that_save(self) -> tuple[dict[str, Allowed], dict[str, Kinds]]:
        """Returns the types and the kinds of tiles of each linear, without those that no best choice has.

        A type has no use if another, which loses less by rounding, saves as much with all of the linear's tiles. A kind has
        none if its tiles save nothing; 2:4 stays where no kind saves.
        """
        areas = weights_of_tiles(self._task.linears, self._task.tile)
        savings = self._savings(areas)
        types: dict[str, Allowed] = {}
        for group in self._inputs().values():
            used = [kind for name in group for kind in _needed(self._options[name], name, savings)]
            types |= {name: tuple(kind for kind in self._options[name] if kind in used) for name in group}
        kinds = {
            name: tuple(
                kind for kind in own if any(savings[one].tiles[name][kind].any() for one in types[name])
            )
            or (TWO_FOUR,)
            for name, own in self._task.kinds.items()
        }
        return types, kinds

    def assumed(self) -> Filled:
        """Returns the types for a plan without scores, in which all weights lose alike, with their loss.

        Raises SpeedError if no types reach the speed.
        """
        task = self._task
        areas = weights_of_tiles(task.linears, task.tile)
        scores = {
            name: {kind: areas[name] * (kind.zeros / TWO_FOUR.zeros) for kind in task.kinds[name]}
            for name in task.linears
        }
        first = {name: group[0] for group in self._inputs().values() for name in group}
        rounding = {
            name: RoundingLoss({kind: share * prod(shape) for kind, share in _ASSUMED.items()}, first[name])
            for name, shape in task.linears.items()
        }
        choices = TypeChoices(self._options, scores, rounding, self._savings(areas))

        def fill(types: Types) -> Filled:
            zeroed = sum(plan.zeroed for plan in self._tiles(types).assumed().values())
            loss = rounding_cost(types, rounding) + zeroed / TWO_FOUR.zeros
            return Filled(types, Selection({}, ()), Budget(), loss)

        return self._cheapest(choices, areas, rounding, fill, _NEAR_IN_PLANS)

    def _inputs(self) -> dict[str, list[str]]:
        """Returns the linears of each input, by the first of them."""
        first = {name: one.linears[0] for one in self._task.outline.groups for name in one.linears}
        found: dict[str, list[str]] = {}
        for name in self._task.linears:
            found.setdefault(first.get(name, name), []).append(name)
        return found

    def _speedup(self, types: Types, kinds: Grids) -> float:
        return self._task.end_to_end(self._tiles(types).plans(kinds)).speedup

    def _cheapest(
        self,
        choices: TypeChoices,
        areas: Grids,
        rounding: RoundingLosses,
        fill: Callable[[Types], Filled],
        shares: Sequence[float] = NEAR,
    ) -> Filled:
        """Returns the types with the least loss among those near the saving that the speed takes.

        If none of these reaches the speed, it returns the types that are sure to, or else the fastest. Raises SpeedError if
        these don't reach it either.
        """

        def reached(types: Types) -> Filled | None:
            try:
                return fill(types)
            except SpeedError:
                return None

        near = [self._unrounded(), *choices.near(self._amount(areas), shares)]
        if found := least_loss(near, rounding, reached):
            return found
        refused: list[SpeedError] = []
        # The types that are near depend on the speed. An error may name only speeds at which these are tried again.
        for types in (self._sure or choices.saving_most(), self._unrounded()):
            try:
                return fill(types)
            except SpeedError as error:
                refused.append(error)
        raise min(refused, key=lambda error: error.fastest)

    def _unrounded(self) -> Types:
        """Returns the type of each linear that loses least. Its launches are not in the savings: small models gain by it."""
        return {name: min(own, key=_loss_of) for name, own in self._options.items()}

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
            (packed, outline.nodes_of(packed), costs.hybrid),
            (others, outline.groups, costs.dense),
        ):
            for product, gated in products_of(planned, groups):
                time = time_of(cost_together(product, gated, costs))
                weights = sum(prod(plan.shape) for plan in product)
                found |= {plan.name: time * prod(plan.shape) / weights for plan in product}
        return {name: found[name] for name in self._task.linears}


def _needed(
    options: Sequence[WeightType], name: str, savings: Mapping[WeightType, TypeSavings]
) -> Iterator[WeightType]:
    """Yield the types of a linear that save more than every type that loses less, with some choice of tiles."""
    by_loss = sorted(options, key=_loss_of)
    for number, kind in enumerate(by_loss):
        if not any(savings[better].covers(savings[kind], name) for better in by_loss[:number]):
            yield kind


def _loss_of(kind: WeightType) -> float:
    return _ASSUMED.get(kind, 0.0)


def _dense(areas: Grids) -> dict[str, NDArray[np.uint8]]:
    return {name: np.zeros(grid.shape, np.uint8) for name, grid in areas.items()}


def _spelled(types: Types) -> tuple[str, ...]:
    return tuple(f"{name}={kind}" for name, kind in types.items())
