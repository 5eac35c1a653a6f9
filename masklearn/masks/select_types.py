"""Chooses the weight type of each linear together with the kinds of its tiles: least loss for a saving.

The loss sums the scores of the pruned tiles, which `select` knows, and the loss of rounding all weights of a linear. The
price is the loss that a unit of the saving may cost. At a given price each linear chooses independently: every tile gets the
kind, and the linear the type, with the least loss − price · saving. A higher price never saves less, so bisection finds the
price at which the whole model saves enough (Lagrange's relaxation of the nested multiple-choice knapsack). Types change the
saving in jumps, tiles in small steps: so the types of a few prices around the found price are tried, `select` fills the
budget exactly with tiles for each, and the choice with the least loss is taken.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from masklearn.base.errors import UsageError
from masklearn.masks.budget import BYTES, Budget, rounded_up
from masklearn.masks.kinds.base import BYTES_DENSE, TileKind
from masklearn.masks.kinds.table import DENSE
from masklearn.masks.select import (
    NO_LOSSES,
    ChoosesTypes,
    Grids,
    RoundingLosses,
    Scores,
    Selection,
    points_of,
    select,
    steps_of,
    tile_savings,
)
from masklearn.quant.table import WeightType

OWN_BYTES = "bytes of their own weight types"

Types = Mapping[str, WeightType]
Options = Mapping[str, tuple[WeightType, ...]]
# Shares of the saving whose types are tried. The saving of tiles is not quite proportional to their number.
NEAR = (0.95, 1.0, 1.05)
_HALVINGS = 60
_FAR = 400  # steps by a factor of 8 to reach any price that fp64 holds
_ROUNDING = 1e-12  # relative rounding error that sums of bytes in fp64 may have


@dataclass(frozen=True)
class TypeSavings:
    """Savings if all linears have the same type.

    dense: saving of a linear's dense weights of this type over dense weights of 16 bits, by linear; tiles: additional saving
    of each tile if it is pruned, `[grid]` by linear and kind.
    """

    dense: Mapping[str, float]
    tiles: Mapping[str, Mapping[TileKind, NDArray[Any]]]

    def of(self, name: str, kinds: NDArray[np.uint8]) -> float:
        """Returns what a linear saves whose tiles have these kinds, codes `[grid]`."""
        pruned = (grid[kinds == kind.code].sum() for kind, grid in self.tiles[name].items())
        return self.dense[name] + float(sum(pruned))

    def covers(self, other: TypeSavings, name: str) -> bool:
        """True if a linear of this type saves at least what it saves with the other, whatever kinds its tiles have there.

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
class Filled:
    """A choice of types with the tiles that fill the budget. loss: of rounding and of pruning."""

    types: dict[str, WeightType]
    selection: Selection
    budget: Budget
    loss: float


@dataclass(frozen=True)
class _Curve:
    """Least loss of a group of linears with the same type, and its saving, after each step of its tiles; `[steps + 1]`.

    slopes: loss per unit saved of each step, rising.
    """

    slopes: NDArray[np.float64]
    loss: NDArray[np.float64]
    saved: NDArray[np.float64]

    def at(self, price: float) -> tuple[float, float]:
        taken = int(np.searchsorted(self.slopes, price, side="right"))
        return float(self.loss[taken]), float(self.saved[taken])


class TypeChoices:
    """The types that groups of linears may have, with the loss and the saving of each."""

    def __init__(
        self,
        options: Options,
        scores: Scores,
        rounding: RoundingLosses,
        savings: Mapping[WeightType, TypeSavings],
    ) -> None:
        """options: types that each linear may have; scores: see `select`; savings: for each type.

        Linears with the same input and the same options are a group, and get the same type.
        """
        members: dict[tuple[str, tuple[WeightType, ...]], list[str]] = {}
        for name, kinds in options.items():
            first = rounding[name].inputs if name in rounding else name
            members.setdefault((first, kinds), []).append(name)
        self._rounding = rounding
        self._groups = [
            (names, {kind: self._curve(names, kind, scores, savings[kind]) for kind in kinds})
            for (_, kinds), names in members.items()
        ]

    def near(self, amount: float, shares: Sequence[float] = NEAR) -> list[dict[str, WeightType]]:
        """Returns the types that lose least for about this amount, without duplicates.

        shares: shares of the amount; each adds the types on both sides of its price.
        """
        found = {self._spelled(types): types for share in shares for types in self._around(share * amount)}
        return list(found.values())

    def saving_most(self) -> dict[str, WeightType]:
        """Returns the types that save most if all tiles are pruned."""
        return {
            name: max(curves, key=lambda kind: curves[kind].saved[-1])
            for names, curves in self._groups
            for name in names
        }

    def bound(self, amount: float) -> float:
        """Returns a lower bound for the loss of every choice that saves the amount: the optimum of Lagrange's relaxation.

        The bound at a price is the least loss − price · (saving − amount) of any choice; the best price gives the highest.
        """
        return max(self._least_at(price, amount) for price in self._prices(amount) if math.isfinite(price))

    def _least_at(self, price: float, amount: float) -> float:
        points = ([curve.at(price) for curve in curves.values()] for _, curves in self._groups)
        return price * amount + sum(min(loss - price * saved for loss, saved in own) for own in points)

    def _around(self, amount: float) -> Iterator[dict[str, WeightType]]:
        """Yield the types at the highest price that saves less than the amount, and the first types that save enough.

        To find these, groups change one after another to their types at the next price: many may change at the same price.
        """
        low, high = self._prices(amount)
        below, above = self._at(low)[0], self._at(high)[0]
        yield below
        yield self._first_enough(below, above, amount, high)

    def _prices(self, amount: float) -> tuple[float, float]:
        """Returns the highest price whose best choice saves less than the amount, and the next, whose saves enough."""
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

    def _first_enough(self, below: Types, above: Types, amount: float, price: float) -> dict[str, WeightType]:
        """Returns `below` with the types of `above` in as many groups as it takes to save the amount at a price."""
        types = dict(below)
        saved = sum(self._saved(names, curves, types, price) for names, curves in self._groups)
        for names, curves in self._groups:
            if saved >= amount:
                break
            before = self._saved(names, curves, types, price)
            types.update((name, above[name]) for name in names)
            saved += self._saved(names, curves, types, price) - before
        return types

    def _saved(
        self, names: Sequence[str], curves: Mapping[WeightType, _Curve], types: Types, price: float
    ) -> float:
        return curves[types[names[0]]].at(price)[1]

    def _at(self, price: float) -> tuple[dict[str, WeightType], float]:
        if math.isinf(price):
            types = self.saving_most()
            return types, sum(self._saved(names, curves, types, price) for names, curves in self._groups)
        types, total = {}, 0.0
        for names, curves in self._groups:
            points = {kind: curve.at(price) for kind, curve in curves.items()}
            best = min(points, key=lambda kind: points[kind][0] - price * points[kind][1])
            types.update(dict.fromkeys(names, best))
            total += points[best][1]
        return types, total

    def _spelled(self, types: Types) -> tuple[str, ...]:
        return tuple(types[names[0]].name for names, _ in self._groups)

    def _curve(self, names: Sequence[str], kind: WeightType, scores: Scores, savings: TypeSavings) -> _Curve:
        steps = steps_of(
            [points_of(scores[name]) for name in names], [dict(savings.tiles[name]) for name in names]
        )
        loss = rounding_cost(dict.fromkeys(names, kind), self._rounding)
        saved = sum(savings.dense[name] for name in names)
        return _Curve(
            steps.cost / steps.saving,
            np.concatenate(([loss], loss + np.cumsum(steps.cost))),
            np.concatenate(([saved], saved + np.cumsum(steps.saving))),
        )


def rounding_cost(types: Types, rounding: RoundingLosses) -> float:
    return sum(rounding[name].by_type.get(kind, 0.0) for name, kind in types.items() if name in rounding)


class TypesForBytes(ChoosesTypes):
    """Chooses kinds of tiles and weight types for an average of bytes per weight, counted in each linear's own type."""

    def __init__(self, per_weight: float, options: Options, shapes: Mapping[str, tuple[int, int]]) -> None:
        """options: types that each linear may have; shapes: (N, K) by linear."""
        self._per_weight, self._options, self._shapes = per_weight, options, shapes

    def check(self, kinds: Mapping[str, tuple[TileKind, ...]]) -> None:
        """Raises UsageError for bytes that no choice reaches. kinds: kinds that the tiles of each linear may have."""
        weights = {name: math.prod(shape) for name, shape in self._shapes.items()}
        least = sum(count * min(self._bytes(name, kinds[name])) for name, count in weights.items()) / max(
            sum(weights.values()), 1
        )
        if self._per_weight < least:
            raise UsageError(
                f"{self._per_weight:g} bytes per weight cannot be reached with these types and kinds of tiles",
                f"With every linear of the smallest type and every tile of the smallest kind it is {rounded_up(least)}.",
                "Give more bytes, or `weights` and `kinds` that take fewer.",
            )

    def _bytes(self, name: str, kinds: Sequence[TileKind]) -> Iterator[float]:
        """Yield the bytes of a weight with each type and kind that go together."""
        for one in self._options[name]:
            yield from (kind.bytes_of(one) for kind in (DENSE, *kinds) if kind.goes_with(one))

    def __call__(
        self, scores: Scores, areas: Grids, rounding: RoundingLosses = NO_LOSSES
    ) -> tuple[Selection, Budget]:
        weights = {name: float(areas[name].sum()) for name in self._options}
        amount = sum((BYTES_DENSE - self._per_weight) * count for count in weights.values())
        kinds = dict.fromkeys(kind for own in self._options.values() for kind in own)
        savings = {kind: _bytes_saved(kind, scores, areas) for kind in kinds}
        choices = TypeChoices(self._options, scores, rounding, savings)

        def fill(types: dict[str, WeightType]) -> Filled | None:
            dense = sum(savings[kind].dense[name] for name, kind in types.items())
            tiles = {name: savings[kind].tiles[name] for name, kind in types.items()}
            most = sum(
                float(np.max([0.0 * areas[name], *grids.values()], axis=0).sum())
                for name, grids in tiles.items()
            )
            if dense + most < amount * (1.0 - _ROUNDING):
                return None
            budget = Budget.saving(min(most, max(0.0, amount - dense)), OWN_BYTES)
            chosen = select(scores, areas, budget, tiles)
            loss = rounding_cost(types, rounding) + sum(one.cost for one in chosen.fills)
            return Filled(types, Selection(chosen.kinds, chosen.fills, types), budget, loss)

        found = least_loss([*choices.near(amount), choices.saving_most()], rounding, fill)
        assert found is not None  # `check` has found it reachable
        return found.selection, found.budget


def least_loss(
    tried: Sequence[dict[str, WeightType]],
    rounding: RoundingLosses,
    fill: Callable[[dict[str, WeightType]], Filled | None],
) -> Filled | None:
    """Returns the choice of types with the least loss, None if no choice fills the budget.

    fill: returns None if no tiles fill the budget with these types. It is not called for types whose rounding loses more
    than the best choice so far.
    """
    best: Filled | None = None
    for types in sorted(tried, key=lambda one: rounding_cost(one, rounding)):
        if best is not None and rounding_cost(types, rounding) >= best.loss:
            break
        filled = fill(types)
        if filled is not None and (best is None or filled.loss < best.loss):
            best = filled
    return best


def _bytes_saved(kind: WeightType, scores: Scores, areas: Grids) -> TypeSavings:
    per_weight = BYTES_DENSE - DENSE.bytes_of(kind)
    return TypeSavings(
        {name: per_weight * float(grid.sum()) for name, grid in areas.items()},
        {
            name: {tiles: _tiles_saved(tiles, areas[name], kind) for tiles in points_of(grids)}
            for name, grids in scores.items()
        },
    )


def _tiles_saved(tiles: TileKind, areas: NDArray[Any], kind: WeightType) -> NDArray[np.float64]:
    """Returns the bytes that tiles save, 0 where no kernel has them: tiles that save nothing are never pruned."""
    return tile_savings(tiles, areas, BYTES, kind) if tiles.goes_with(kind) else areas * 0.0
