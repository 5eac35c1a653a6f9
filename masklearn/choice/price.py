"""Price of a choice: what the weight types and the pruned tiles of a model save, in the unit of a goal."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from masklearn.choice.goal import BYTES, OWN_BYTES, Goal
from masklearn.choice.losses import Losses, Points, points_of
from masklearn.choice.select import Selection, select, tile_savings
from masklearn.masks.kinds.base import BYTES_DENSE
from masklearn.masks.kinds.table import DENSE
from masklearn.masks.linear_mask import LinearMask
from masklearn.quant.table import FLOAT16, WeightType

Types = Mapping[str, WeightType]
_ROUNDING = 1e-12  # relative rounding error that sums of bytes in fp64 may have


@dataclass(frozen=True)
class Savings:
    """Savings of all linears with given weight types.

    dense: saving of a linear's dense weights over dense weights of 16 bits, by linear; tiles: additional saving of each tile
    if it is pruned, `[grid]` by linear and kind.
    """

    dense: Mapping[str, float]
    tiles: Mapping[str, Points]

    def of(self, name: str, kinds: NDArray[np.uint8]) -> float:
        """Returns what a linear saves whose tiles have these kinds, codes `[grid]`."""
        pruned = (grid[kinds == kind.code].sum() for kind, grid in self.tiles[name].items())
        return self.dense[name] + float(sum(pruned))

    def covers(self, other: Savings, name: str) -> bool:
        """True if a linear saves here at least what it saves with the other types, whatever kinds its tiles have there.

        Here they may have another kind that zeroes no more.
        """
        mine = self.tiles[name]
        more = [
            grid - np.max([own for one, own in mine.items() if one.zeros <= kind.zeros], axis=0, initial=0.0)
            for kind, grid in other.tiles[name].items()
        ]
        most = float(np.max(more, axis=0, initial=0.0).sum()) if more else 0.0
        return self.dense[name] - other.dense[name] >= most


@dataclass(frozen=True)
class Choice:
    """What was chosen for a model.

    tiles: kinds of all tiles; goal: the goal that they fill, in addition to what the types save; types: weight types of all
    linears; rounding: loss of rounding to these types; bound: a lower bound of the loss of any types and tiles that save as
    much, None if the types were given.
    """

    tiles: Selection
    goal: Goal
    types: Types
    rounding: float = 0.0
    bound: float | None = None

    @property
    def loss(self) -> float:
        """Loss of rounding and of pruning."""
        return self.rounding + sum(fill.cost for fill in self.tiles.fills)


class Price(ABC):
    """What types and tiles save of a goal. predicts: True if that depends on predicted times."""

    predicts: ClassVar[bool] = True

    @abstractmethod
    def of_types(self, types: Types, losses: Losses) -> Mapping[str, float]:
        """Returns the saving of dense weights of these types over dense weights of 16 bits, by linear."""

    @abstractmethod
    def of_tiles(self, types: Types, losses: Losses) -> Mapping[str, Points]:
        """Returns the additional saving of each tile if it is pruned, for each kind that has a score."""

    def amount(self, goal: Goal) -> float:
        """Returns the saving that types and tiles have to reach together."""
        assert goal.amount is not None  # types are chosen only for a saving
        return goal.amount

    @abstractmethod
    def fill(self, losses: Losses, types: Types, goal: Goal) -> Choice | None:
        """Returns the tiles that lose least for the goal with these types, None if no tiles reach it."""

    def refusal(self, losses: Losses, types: Iterable[Types]) -> Exception:
        """Returns the error for a goal that is out of reach; types: those that come nearest to it."""
        raise NotImplementedError  # a goal of bytes is checked before there are losses

    @abstractmethod
    def record(self, goal: Goal, choice: Choice, masks: Mapping[str, LinearMask]) -> dict[str, Any]:
        """Returns the fields of `ChoiceRecord` that say what was asked for and reached. masks: made of the choice."""


class InUnits(Price):
    """Price by zeroed weights, or by bytes of 16-bit weights or of each linear's own type."""

    predicts = False

    def __init__(self, unit: str) -> None:
        """unit: a unit of `masklearn.choice.goal`."""
        self._unit = unit

    def of_types(self, types: Types, losses: Losses) -> dict[str, float]:
        areas = losses.areas
        return {
            name: (BYTES_DENSE - DENSE.bytes_of(own)) * float(areas[name].sum())
            for name, own in types.items()
        }

    def of_tiles(self, types: Types, losses: Losses) -> dict[str, Points]:
        return {
            name: {
                kind: tile_savings(kind, losses.areas[name], self._unit, types.get(name, FLOAT16))
                for kind in points_of(grids)
            }
            for name, grids in losses.scores.items()
        }

    def fill(self, losses: Losses, types: Types, goal: Goal) -> Choice | None:
        tiles = self.of_tiles(types, losses)
        if self._unit == OWN_BYTES:
            dense = sum(self.of_types(types, losses).values())
            most = sum(_most(losses.areas[name], own) for name, own in tiles.items())
            amount = self.amount(goal)
            if dense + most < amount * (1.0 - _ROUNDING):
                return None
            goal = Goal.saving(min(most, max(0.0, amount - dense)), goal.unit)
        return Choice(
            select(losses.scores, losses.areas, goal, tiles), goal, types, losses.of_rounding(types)
        )

    def record(self, goal: Goal, choice: Choice, masks: Mapping[str, LinearMask]) -> dict[str, Any]:
        weights = sum(mask.weights for mask in masks.values())
        if goal.amount is None:
            reached = sum(mask.zeroed for mask in masks.values()) / max(weights, 1)
            return {"unit": "ratio", "asked": goal.spelled, "per_layer": goal.per_layer, "reached": reached}
        if self._unit not in (BYTES, OWN_BYTES):
            saved = sum(fill.saved for fill in choice.tiles.fills)
            return {"unit": self._unit, "asked": goal.amount, "reached": saved}
        types = choice.types if self._unit == OWN_BYTES else {}
        packed = sum(
            kind.bytes_of(types.get(name, FLOAT16)) * count
            for name, mask in masks.items()
            for kind, count in mask.by_kind().items()
        )
        asked = BYTES_DENSE - goal.amount / weights
        return {"unit": "bytes_per_weight", "asked": asked, "reached": packed / weights}


def _most(areas: NDArray[Any], tiles: Points) -> float:
    return float(np.max([0.0 * areas, *tiles.values()], axis=0).sum())
