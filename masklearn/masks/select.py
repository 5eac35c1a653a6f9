"""Selects the tiles to make 2:4, by scores and a budget: least cost, exact to less than one tile, deterministic."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from masklearn.errors import PatchCompileError
from masklearn.masks.budget import Budget, Share

__all__ = ["Choose", "Fill", "Selection", "by_budget", "select"]

Grids = Mapping[str, NDArray[Any]]

_ROUNDING = 1e-12  # relative rounding error that sums of savings in fp64 may have


@dataclass(frozen=True)
class Fill:
    """Result of selecting tiles for one share of the budget.

    saved: total saving, in the budget's unit; tiles: number of tiles made 2:4; cost: sum of their scores, the least of any
    tile map that saves as much, even with fractions of tiles; bound: least cost of saving exactly the share's amount with
    fractions of tiles (optimum of the linear program), a lower bound for every map that saves as much.
    """

    share: Share
    saved: float
    tiles: int
    cost: float
    bound: float

    @property
    def gap(self) -> float:
        """cost - bound. Its magnitude is at most one tile's score, and it is 0 if the share's amount is met exactly."""
        return self.cost - self.bound


class Selection(Mapping[str, NDArray[np.bool_]]):
    """Tile maps by linear, bool `[grid]`, True = 2:4, with the result of each share of the budget."""

    def __init__(self, tiles: Mapping[str, NDArray[np.bool_]], fills: tuple[Fill, ...]) -> None:
        self.fills = fills
        self._tiles = dict(tiles)

    def __getitem__(self, name: str) -> NDArray[np.bool_]:
        return self._tiles[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tiles)

    def __len__(self) -> int:
        return len(self._tiles)

    @property
    def gap(self) -> float:
        """Sum of the shares' gaps to the linear program, in the unit of the scores."""
        return sum(fill.gap for fill in self.fills)


# A function that returns tile maps and the budget that they fill, from `scores` and `areas` of `select`. It may be called
# for several sets of scores. A linear that its budget leaves dense once stays so in later calls.
Choose = Callable[[Grids, Grids], tuple[Selection, Budget]]


def by_budget(budget: Budget) -> Choose:
    """Returns a function that chooses tile maps by this budget."""
    return lambda scores, areas: (select(scores, areas, budget), budget)


def select(scores: Grids, areas: Grids, budget: Budget | float, costs: Grids | None = None) -> Selection:
    """Make the tiles 2:4 that cost least per unit saved, until the budget is met.

    scores: name to `[grid]`, loss of quality if the tile is made 2:4; areas: name to int `[grid]`, weights in the tile
    (`tiles.tile_weights`; ragged tiles have fewer); budget: a ratio over all linears, or a `Budget`; costs: name to
    `[grid]`, the *saving* if the tile is made 2:4, in the budget's unit, None for zeroed weights, which are half of the
    area. Tiles that save nothing are never chosen.

    Each share of the budget is solved separately. A ratio is met as nearly as a number of tiles in that order can:
    |reached - asked| is at most half of one tile's saving, a quarter of its weights. 0 and 0.5 are met exactly. A saving
    (`Budget.saving`) is reached or exceeded by less than one tile. Among equal tiles the one of the first linear in
    `scores` is chosen, then the one in the lowest row, then the one in the lowest column.

    Raises PatchCompileError for a ratio outside 0 ... 0.5, patterns that do not fit, or a saving that all tiles together
    do not reach, and ValueError for a score or a cost that is not finite, or a unit without costs.
    """
    budget = budget if isinstance(budget, Budget) else Budget.of(float(budget))
    if costs is None and budget.unit != "weights":
        raise ValueError(f"a saving of {budget.unit} needs what each tile saves of it")
    savings = {name: areas[name] / 2 for name in scores} if costs is None else costs
    _check_finite("score", scores)
    _check_finite("cost", {name: savings[name] for name in scores})
    tiles = {name: np.zeros(grid.shape, dtype=np.bool_) for name, grid in scores.items()}
    shares = budget.shares({name: areas[name] for name in scores}) if scores else []
    fills = tuple(_fill(share, scores, savings, tiles, budget.unit) for share in shares)
    return Selection(tiles, fills)


def _fill(
    share: Share, scores: Grids, savings: Grids, tiles: dict[str, NDArray[np.bool_]], unit: str
) -> Fill:
    """Select the tiles of one share by a stable sort on cost per saving, and write them into `tiles`."""
    cost, saves = _flat(scores, share), _flat(savings, share)
    useful = np.flatnonzero(saves > 0.0)
    order = useful[np.argsort(cost[useful] / saves[useful], kind="stable")]
    saved = np.concatenate(([0.0], np.cumsum(saves[order])))
    count = _count(saved, share, unit)
    chosen = np.zeros(cost.size, dtype=np.bool_)
    chosen[order[:count]] = True
    _put_back(chosen, share, tiles)
    return Fill(
        share, float(saved[count]), count, float(cost[order[:count]].sum()), _bound(cost[order], saved, share)
    )


def _count(saved: NDArray[np.float64], share: Share, unit: str) -> int:
    """Returns the number of tiles to make 2:4; saved: total saving of the first 0, 1, 2 … tiles of the order."""
    if not share.at_least:
        return int(np.abs(saved - share.saving).argmin())
    if saved[-1] < share.saving * (1.0 - _ROUNDING):
        raise PatchCompileError(
            f"A saving of {share.saving:g} {unit} cannot be reached",
            f"All tiles together save {saved[-1]:g} {unit}.",
            "Ask for less.",
        )
    return int(np.searchsorted(saved, share.saving * (1.0 - _ROUNDING)))


def _bound(cost: NDArray[np.float64], saved: NDArray[np.float64], share: Share) -> float:
    """Returns the cost of saving exactly the share's amount with a fraction of the last tile, by interpolation."""
    if not cost.size:
        return 0.0
    return float(np.interp(share.saving, saved, np.concatenate(([0.0], np.cumsum(cost)))))


def _check_finite(what: str, grids: Grids) -> None:
    for name, grid in grids.items():
        if not bool(np.isfinite(grid).all()):
            raise ValueError(f"a tile {what} of {name} is not finite")


def _flat(grids: Grids, share: Share) -> NDArray[np.float64]:
    return np.concatenate([np.asarray(grids[name], dtype=np.float64).ravel() for name in share.names])


def _put_back(chosen: NDArray[np.bool_], share: Share, tiles: dict[str, NDArray[np.bool_]]) -> None:
    start = 0
    for name in share.names:
        grid = tiles[name]
        grid[...] = chosen[start : start + grid.size].reshape(grid.shape)
        start += grid.size
