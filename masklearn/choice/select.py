"""Selects the kind of every tile, by scores, savings and a goal: least cost, exact to less than one step, deterministic.

Every tile has a few points (saving, cost): a point for each kind that it may have, and dense at (0, 0). Their lower convex
hull is a chain of steps of falling efficiency: each step replaces the tile's kind by a kind that saves more. The steps of
all tiles, sorted by cost per unit saved, are taken until the goal is met. This is the multiple-choice knapsack, and
interpolation of the last step gives its linear program (Sinha and Zoltners, Operations Research 27, 1979). With only 2:4 a
tile has one step.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from masklearn.base.errors import MaskLearnError
from masklearn.choice.goal import BYTES, OWN_BYTES, WEIGHTS, Goal, Share
from masklearn.choice.losses import Grids, Points, Scores, points_of
from masklearn.masks.kinds.base import TileKind
from masklearn.masks.kinds.table import DENSE, TWO_FOUR
from masklearn.quant.table import FLOAT16, WeightType

_NOTHING = np.zeros(1)
_EPSILON = float(np.finfo(np.float64).eps)


@dataclass(frozen=True)
class Fill:
    """Result of selecting tiles for a share of the goal.

    saved: total saving, in the goal's unit; tiles: number of pruned tiles; cost: sum of their scores, the least of any
    choice that saves as much, even with fractions of tiles; bound: least cost of saving exactly the share's amount with
    fractions of tiles (optimum of the linear program), a lower bound for every choice that saves as much.
    """

    share: Share
    saved: float
    tiles: int
    cost: float
    bound: float


class Selection(Mapping[str, NDArray[np.bool_]]):
    """Maps of 2:4 tiles by linear, bool `[grid]`, True = 2:4, with the result of each share of the goal.

    kinds: codes of the kinds of all tiles by linear, uint8 `[grid]`.
    """

    def __init__(self, kinds: Mapping[str, NDArray[np.uint8]], fills: tuple[Fill, ...]) -> None:
        self.fills = fills
        self.kinds = dict(kinds)

    def __getitem__(self, name: str) -> NDArray[np.bool_]:
        two_four: NDArray[np.bool_] = self.kinds[name] == TWO_FOUR.code
        return two_four

    def __iter__(self) -> Iterator[str]:
        return iter(self.kinds)

    def __len__(self) -> int:
        return len(self.kinds)


def tile_savings(
    kind: TileKind, areas: NDArray[Any], unit: str, weights: WeightType = FLOAT16
) -> NDArray[np.float64]:
    """Returns the saving of tiles of these areas if they have this kind, in zeroed weights or bytes.

    weights: type of the weights, for bytes of their own types: tiles that no kernel has save nothing, and so are never
    pruned. Raises ValueError for another unit.
    """
    if unit not in (WEIGHTS, BYTES, OWN_BYTES):
        raise ValueError(f"a goal in {unit} needs the saving of each tile")
    if unit == OWN_BYTES and not kind.goes_with(weights):
        return areas * 0.0
    counted = weights if unit == OWN_BYTES else FLOAT16
    per_weight = kind.zeros if unit == WEIGHTS else DENSE.bytes_of(counted) - kind.bytes_of(counted)
    return areas * per_weight


def select(scores: Scores, areas: Grids, goal: Goal | float, costs: Scores | None = None) -> Selection:
    """Give tiles the kinds that cost least per unit saved, until the goal is met.

    scores: name to `[grid]`, loss of quality if the tile is made 2:4, or name to such grids by kind; areas: name to int
    `[grid]`, weights in the tile (`tiles.tile_weights`; ragged tiles have fewer); goal: a ratio over all linears, or a
    `Goal`; costs: in the form of `scores`, the *saving* if the tile has the kind, in the goal's unit; None for zeroed
    weights or bytes, which follow from area and kind. Tiles that save nothing are never pruned.

    Each share of the goal is solved separately. A ratio is met as nearly as a number of steps in that order can:
    |reached - asked| is at most half of one step's saving, with 2:4 a quarter of a tile's weights. 0 and 0.5 are met
    exactly. A saving (`Goal.saving`) is reached, to the rounding of a sum, or exceeded by less than one step. Equal steps
    are taken in the order of the linears in `scores`, then by row, then by column.

    Raises MaskLearnError for a ratio outside 0 ... 0.5, patterns that do not fit, or a saving that all tiles together
    do not reach, and ValueError for a score or a cost that is not finite, or a unit without costs.
    """
    goal = goal if isinstance(goal, Goal) else Goal.of_ratio(float(goal))
    return selector(scores, areas, goal.unit, costs)(goal)


def selector(
    scores: Scores, areas: Grids, unit: str, costs: Scores | None = None
) -> Callable[[Goal], Selection]:
    """Returns the function that selects tiles for goals in a unit, as `select` does. It sorts the steps of tiles once."""
    losses = {name: points_of(grids) for name, grids in scores.items()}
    if costs is None:
        savings = {
            name: {kind: tile_savings(kind, areas[name], unit) for kind in by_kind}
            for name, by_kind in losses.items()
        }
    else:
        savings = {name: points_of(costs[name]) for name in losses}
    _check_finite("score", losses)
    _check_finite("cost", savings)

    @cache
    def steps(names: tuple[str, ...]) -> Steps:
        return steps_of([losses[name] for name in names], [savings[name] for name in names])

    def selected(goal: Goal) -> Selection:
        kinds = {name: np.full(areas[name].shape, DENSE.code, np.uint8) for name in losses}
        shares = goal.shares({name: areas[name] for name in losses}) if losses else []
        fills = tuple(_fill(share, steps(share.names), kinds, unit) for share in shares)
        return Selection(kinds, fills)

    return selected


@dataclass(frozen=True)
class Steps:
    """Steps along the hulls of a share's tiles, in the order in which they are taken. All arrays are `[steps]`.

    tile: index of the tile; kind: code of the kind that it gets; cost, saving: increments of both.
    """

    tile: NDArray[np.int64]
    kind: NDArray[np.uint8]
    cost: NDArray[np.float64]
    saving: NDArray[np.float64]


def _fill(share: Share, steps: Steps, kinds: dict[str, NDArray[np.uint8]], unit: str) -> Fill:
    """Take the steps of a share that cost least, and write the kinds of its tiles into `kinds`."""
    saved = np.concatenate(([0.0], np.cumsum(steps.saving)))
    count = _count(saved, share, unit)
    total = sum(kinds[name].size for name in share.names)
    chosen = np.full(total, DENSE.code, np.uint8)
    # Steps of a tile are in their own order, so the last step taken stands. numpy assigns in order.
    chosen[steps.tile[:count]] = steps.kind[:count]
    start = 0
    for name in share.names:
        grid = kinds[name]
        grid[...] = chosen[start : start + grid.size].reshape(grid.shape)
        start += grid.size
    cost = np.concatenate(([0.0], np.cumsum(steps.cost)))
    pruned = int((chosen != DENSE.code).sum())
    taken = float(steps.cost[:count].sum())
    return Fill(share, float(saved[count]), pruned, taken, float(np.interp(share.saving, saved, cost)))


def steps_of(losses: list[Points], savings: list[Points]) -> Steps:
    """Returns the steps of all tiles of some linears, sorted by cost per unit saved. Equal steps keep the order of tiles."""
    kinds = list(dict.fromkeys(kind for points in losses for kind in points))
    cost, saving = _flat(losses, kinds), _flat(savings, kinds)
    at_cost, at_saving = np.zeros(cost.shape[1]), np.zeros(cost.shape[1])
    slope = np.full(cost.shape[1], -np.inf)
    tiles, codes, costs, saved, slopes = [], [], [], [], []
    for _ in kinds:  # from the current point of each tile to the next point of its hull
        ahead = saving - at_saving
        with np.errstate(divide="ignore", invalid="ignore"):
            slopes_to = np.where(ahead > 0.0, (cost - at_cost) / ahead, np.inf)
        least = slopes_to.min(axis=0)
        there = np.flatnonzero(least < np.inf)
        if not there.size:
            break
        to = np.where((slopes_to == least) & (ahead > 0.0), ahead, -np.inf).argmax(axis=0)[there]
        # Rounding must not change the order of a tile's steps.
        slope[there] = np.maximum(slope[there], least[there])
        tiles.append(there)
        codes.append(np.array([kind.code for kind in kinds], np.uint8)[to])
        costs.append(cost[to, there] - at_cost[there])
        saved.append(ahead[to, there])
        slopes.append(slope[there])
        at_cost[there], at_saving[there] = cost[to, there], saving[to, there]
    if not tiles:
        none = np.zeros(0)
        return Steps(none.astype(np.int64), none.astype(np.uint8), none, none)
    level = np.repeat(np.arange(len(tiles)), [of_level.size for of_level in tiles])
    order = np.lexsort((level, np.concatenate(tiles), np.concatenate(slopes)))
    return Steps(*(np.concatenate(levels)[order] for levels in (tiles, codes, costs, saved)))


def _flat(grids: list[Points], kinds: list[TileKind]) -> NDArray[np.float64]:
    """Returns the numbers of all tiles, `[kinds, tiles]`, 0 for kinds that a linear's tiles may not have."""

    def row(kind: TileKind) -> NDArray[np.float64]:
        parts = [np.asarray(points.get(kind, _NOTHING), np.float64) for points in grids]
        sizes = [next(iter(points.values())).shape if points else (0,) for points in grids]
        return np.concatenate(
            [np.broadcast_to(part, size).ravel() for part, size in zip(parts, sizes, strict=True)]
        )

    return np.stack([row(kind) for kind in kinds]) if kinds else np.zeros((1, 0))


def _count(saved: NDArray[np.float64], share: Share, unit: str) -> int:
    """Returns the number of steps to take; saved: total saving of the first 0, 1, 2 … steps."""
    if not share.at_least:
        return int(np.abs(saved - share.saving).argmin())
    # Two sums of the same n numbers >= 0, in any two orders, differ by at most n epsilons (Higham, Accuracy and Stability of
    # Numerical Algorithms, 4.2): an amount may be the sum of just these tiles in the order of their linears.
    amount = share.saving * (1.0 - saved.size * _EPSILON)
    if saved[-1] < amount:
        raise MaskLearnError(
            f"A saving of {share.saving:g} {unit} cannot be reached",
            f"All tiles together save {saved[-1]:g} {unit}.",
            "Ask for less.",
        )
    return int(np.searchsorted(saved, amount))


def _check_finite(what: str, grids: Mapping[str, Points]) -> None:
    for name, points in grids.items():
        if not all(bool(np.isfinite(grid).all()) for grid in points.values()):
            raise ValueError(f"a tile {what} of {name} is not finite")
