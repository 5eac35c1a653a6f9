"""Chooses the type of each linear and the kind of each tile: the least loss for a goal, by a menu and a price.

The loss sums the scores of the pruned tiles and the loss of rounding the weights of each linear. If the menu gives each
linear one type, the price fills the goal with tiles (`select`). Otherwise the rate is varied: the loss that a unit of the
saving may cost. At a given rate each linear chooses independently. Every tile gets the kind, and the linear the type, with
the least loss − rate · saving. A higher rate never saves less, so bisection finds the rate at which the whole model saves
enough (Lagrange's relaxation of the nested multiple-choice knapsack). Types change the saving in jumps, tiles in small
steps: so the types of a few rates around that rate are tried, the goal is filled with tiles for each, and the choice with
the least loss is taken.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from masklearn.choice.goal import Goal
from masklearn.choice.losses import Losses, Pairs, assumed_loss, points_of
from masklearn.choice.price import Choice, InUnits, Price, Savings, Types
from masklearn.choice.select import steps_of
from masklearn.masks.kinds.base import TileKind
from masklearn.masks.kinds.table import DENSE
from masklearn.masks.linear_mask import LinearMask
from masklearn.masks.record import ChoiceRecord
from masklearn.quant.table import FLOAT16, WeightType

Options = Mapping[str, tuple[WeightType, ...]]
# Shares of the saving whose types are tried. The saving of tiles is not quite proportional to their number.
_NEAR = (0.95, 1.0, 1.05)
_HALVINGS = 60
_FAR = 400  # steps by a factor of 8 to reach any rate that fp64 holds


@dataclass(frozen=True)
class Chooser:
    """Chooses weight types and tile maps for a goal. `InUnits` gives its price, or predicted time does.

    types: types that each linear may have; sure: types that reach the goal with any scores, if they are known; pairs:
    linears whose tiles are chosen in pairs.
    """

    types: Options
    price: Price
    goal: Goal
    sure: Types | None = None
    pairs: Pairs = ()

    @property
    def chooses_types(self) -> bool:
        return any(len(own) > 1 for own in self.types.values())

    def __call__(self, losses: Losses) -> Choice:
        """Returns the choice with the least loss among the types near the saving that the goal takes.

        If none of these types reaches the goal, it takes the types that are sure to, or that save most, or the types that
        lose least. Raises the price's refusal if these don't reach it either. It may be called with several losses. A linear
        that the goal leaves dense once stays dense in later calls.
        """
        losses = losses.in_pairs(self.pairs)
        if not self.chooses_types:
            types = {name: own[0] for name, own in self.types.items()}
            chosen = self.price.fill(losses, types, self.goal)
            if chosen is None:
                raise self.price.refusal(losses, [types])
            return chosen
        savings = savings_by_type(self.types, self.price, losses)
        choices = TypeChoices(self.types, losses, savings)
        largest = {name: min(own, key=assumed_loss) for name, own in self.types.items()}
        choice = self._least([largest, *choices.near(self.price.amount(self.goal))], losses)
        if choice is None:
            # The types that are near depend on the goal. An error may name only goals at which these are tried again.
            last = [self.sure or choices.saving_most(), largest]
            choice = next(filter(None, (self.price.fill(losses, types, self.goal) for types in last)), None)
            if choice is None:
                raise self.price.refusal(losses, last)
        saved = sum(savings[choice.types[name]].of(name, kinds) for name, kinds in choice.tiles.kinds.items())
        return replace(choice, bound=choices.bound(saved))

    def record(
        self, choice: Choice, masks: Mapping[str, LinearMask], kinds: Mapping[str, tuple[TileKind, ...]]
    ) -> ChoiceRecord:
        """Returns the record of a choice.

        masks: made of it, by a method that may have moved tiles; kinds: kinds that the tiles of each linear may have.
        """
        by_kind = Counter({kind.name: 0 for own in kinds.values() for kind in (DENSE, *own)})
        by_type = Counter({_counted(own): 0 for options in self.types.values() for own in options})
        for name, mask in masks.items():
            by_kind.update({kind.name: count for kind, count in mask.by_kind().items()})
            by_type[_counted(choice.types.get(name, FLOAT16))] += mask.weights
        fields = self.price.record(self.goal, choice, masks)
        for field, counts in (("kinds", by_kind), ("types", by_type)):
            fields[field] = {name: count / counts.total() for name, count in counts.items()}
        moved = any((mask.kinds != choice.tiles.kinds[name]).any() for name, mask in masks.items())
        if choice.loss and not moved:
            bound = sum(min(fill.cost, fill.bound) for fill in choice.tiles.fills)
            fields |= {"loss": choice.loss, "bound": bound if choice.bound is None else choice.bound}
            if self.chooses_types:
                fields["rounding"] = choice.rounding
        return ChoiceRecord(**fields)

    def _least(self, tried: Sequence[Types], losses: Losses) -> Choice | None:
        """Returns the choice of types with the least loss, None if no choice reaches the goal.

        Types whose rounding loses more than the best choice so far are left out.
        """
        best: Choice | None = None
        for types in sorted(tried, key=losses.of_rounding):
            if best is not None and losses.of_rounding(types) >= best.loss:
                break
            filled = self.price.fill(losses, types, self.goal)
            if filled is not None and (best is None or filled.loss < best.loss):
                best = filled
        return best


def _counted(weights: WeightType) -> str:
    """Returns the name of a type in a record, which does not tell the 16-bit types apart."""
    return weights.name if weights.quantised else FLOAT16.name


def by_goal(goal: Goal, types: Options) -> Chooser:
    """Returns the chooser for a goal of weights or bytes; types: types that each linear may have."""
    return Chooser(types, InUnits(goal.unit), goal)


def savings_by_type(options: Options, price: Price, losses: Losses) -> dict[WeightType, Savings]:
    """Returns the savings if all linears that may have a type have it, for each type."""
    savings = {}
    for kind in dict.fromkeys(kind for own in options.values() for kind in own):
        types = {name: kind if kind in own else own[0] for name, own in options.items()}
        savings[kind] = Savings(price.of_types(types, losses), price.of_tiles(types, losses))
    return savings


@dataclass(frozen=True)
class _Curve:
    """Least loss of a group of linears with the same type, and its saving, after each step of its tiles; `[steps + 1]`.

    slopes: loss per unit saved of each step, rising.
    """

    slopes: NDArray[np.float64]
    loss: NDArray[np.float64]
    saved: NDArray[np.float64]

    def at(self, rate: float) -> tuple[float, float]:
        taken = int(np.searchsorted(self.slopes, rate, side="right"))
        return float(self.loss[taken]), float(self.saved[taken])


class TypeChoices:
    """The types that groups of linears may have, with the loss and the saving of each."""

    def __init__(
        self,
        options: Options,
        losses: Losses,
        savings: Mapping[WeightType, Savings],
    ) -> None:
        """options: types that each linear may have; savings: see `savings_by_type`.

        Linears with the same input and the same options are a group, and get the same type.
        """
        members: dict[tuple[str, tuple[WeightType, ...]], list[str]] = {}
        for name, kinds in options.items():
            first = losses.rounding[name].inputs if name in losses.rounding else name
            members.setdefault((first, kinds), []).append(name)
        self._groups = [
            (names, {kind: _curve(names, kind, losses, savings[kind]) for kind in kinds})
            for (_, kinds), names in members.items()
        ]

    def near(self, amount: float) -> list[dict[str, WeightType]]:
        """Returns the types that lose least for about this amount, without duplicates: those on both sides of the rate of
        each of a few shares of it."""
        near = [types for share in _NEAR for types in self._around(share * amount)]
        return [types for i, types in enumerate(near) if types not in near[:i]]

    def saving_most(self) -> dict[str, WeightType]:
        """Returns the types that save most if all tiles are pruned."""
        return {
            name: max(curves, key=lambda kind: curves[kind].saved[-1])
            for names, curves in self._groups
            for name in names
        }

    def bound(self, amount: float) -> float:
        """Returns a lower bound for the loss of every choice that saves the amount: the optimum of Lagrange's relaxation.

        The bound at a rate is the least loss − rate · (saving − amount) of any choice; the best rate gives the highest.
        """
        bounds = []
        for rate in filter(math.isfinite, self._rates(amount)):
            points = ([curve.at(rate) for curve in curves.values()] for _, curves in self._groups)
            least = sum(min(loss - rate * saved for loss, saved in own) for own in points)
            bounds.append(rate * amount + least)
        return max(bounds)

    def _around(self, amount: float) -> Iterator[dict[str, WeightType]]:
        """Yield the types at the highest rate that saves less than the amount, and the first types that save enough.

        To find these, groups change one after another to their types at the next rate: many may change at the same rate.
        """
        low, high = self._rates(amount)
        below, above = self._at(low)[0], self._at(high)[0]
        yield below
        yield self._first_enough(below, above, amount, high)

    def _rates(self, amount: float) -> tuple[float, float]:
        """Returns the highest rate whose best choice saves less than the amount, and the next, whose saves enough."""
        low = high = 1.0
        for _ in range(_FAR):
            if self._at(high)[1] >= amount or math.isinf(high):
                break
            low, high = high, high * 8
        for _ in range(_FAR):
            if self._at(low)[1] < amount or low == 0.0:
                break
            low, high = low / 8, low
        for _ in range(_HALVINGS):
            middle = math.sqrt(low) * math.sqrt(high) if low else high / 8
            if not low < middle < high:
                break
            low, high = (low, middle) if self._at(middle)[1] >= amount else (middle, high)
        return low, high

    def _first_enough(self, below: Types, above: Types, amount: float, rate: float) -> dict[str, WeightType]:
        """Returns `below` with the types of `above` in as many groups as it takes to save the amount at a rate."""
        types = dict(below)
        saved = sum(self._saved(names, curves, types, rate) for names, curves in self._groups)
        for names, curves in self._groups:
            if saved >= amount:
                break
            before = self._saved(names, curves, types, rate)
            types.update((name, above[name]) for name in names)
            saved += self._saved(names, curves, types, rate) - before
        return types

    def _saved(
        self, names: Sequence[str], curves: Mapping[WeightType, _Curve], types: Types, rate: float
    ) -> float:
        return curves[types[names[0]]].at(rate)[1]

    def _at(self, rate: float) -> tuple[dict[str, WeightType], float]:
        if math.isinf(rate):
            types = self.saving_most()
            return types, sum(self._saved(names, curves, types, rate) for names, curves in self._groups)
        types, total = {}, 0.0
        for names, curves in self._groups:
            points = {kind: curve.at(rate) for kind, curve in curves.items()}
            best = min(points, key=lambda kind: points[kind][0] - rate * points[kind][1])
            types.update(dict.fromkeys(names, best))
            total += points[best][1]
        return types, total


def _curve(names: Sequence[str], kind: WeightType, losses: Losses, savings: Savings) -> _Curve:
    steps = steps_of(
        [points_of(losses.scores[name]) for name in names], [savings.tiles[name] for name in names]
    )
    loss = losses.of_rounding(dict.fromkeys(names, kind))
    saved = sum(savings.dense[name] for name in names)
    return _Curve(
        steps.cost / steps.saving,
        np.concatenate(([loss], loss + np.cumsum(steps.cost))),
        np.concatenate(([saved], saved + np.cumsum(steps.saving))),
    )
