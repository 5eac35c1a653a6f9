"""Summarises tile scores in a histogram that is small enough for a file's header, with the highest price that was paid."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from masklearn.masks.budget import BYTES, WEIGHTS, Budget
from masklearn.masks.kinds.base import TileKind
from masklearn.masks.kinds.table import BY_CODE, DENSE, TWO_FOUR
from masklearn.masks.record import ScoreCounts, ScoreRecord, ZeroScores
from masklearn.masks.select import Scores, points_of, tile_savings

Grids = Mapping[str, NDArray[Any]]

_BINS = 40
_DIGITS = 4  # significant digits of an edge; counts are exact, because bins are made from the rounded edges
PER_WEIGHT, PER_BYTE = ", per zeroed weight", ", per saved byte"
"""Ends of the unit of a record."""


def summarise_scores(
    scores: Scores, areas: Grids, kinds: Grids, budget: Budget, unit: str
) -> ScoreRecord | None:
    """Returns a histogram of score per saving, or None if all tiles are of one kind, or no score is above 0.

    Every tile is in it once: a pruned tile with the score of its own kind, and a dense tile with the score of the kind that
    would cost least. The saving is the budget's, bytes or zeroed weights; for a budget in another unit it is zeroed weights.
    Linears that the budget leaves dense, or whose tiles may have no other kind, are left out. A bin includes its lower edge;
    the last bin includes both edges. With only 2:4 the histogram takes less than 4 kB in JSON.

    scores, areas: numbers by linear, as `select` takes them; kinds: codes of the chosen kinds `[grid]` by linear; unit: unit
    of a score, in words. zero (of the result): number of tiles whose score is 0, which are in no bin; cut: the highest price
    that was paid, None if tiles were not ranked by this saving over all linears together. A tile that was taken to its kind
    from dense or a less tight kind cost at most this much for each unit that the change saved. ranked: the ranking, in
    words.
    """
    points = {name: points_of(grids) for name, grids in scores.items() if name not in budget.dense}
    points = {name: by_kind for name, by_kind in points.items() if by_kind}
    saved = BYTES if budget.unit == BYTES else WEIGHTS
    tiles = [_tiles(by_kind, areas[name], np.asarray(kinds[name]), saved) for name, by_kind in points.items()]
    if not tiles:
        return None
    area, value, codes, price = (
        np.concatenate(parts)
        for parts in zip(*((t.area, t.value, t.codes, t.price) for t in tiles), strict=True)
    )
    positive = value[value > 0.0]
    if (codes == codes[0]).all() or not positive.size:
        return None
    edges = _edges(float(positive.min()), float(positive.max()))
    groups = sum(not budget.dense.issuperset(share.names) for share in budget.shares(areas))
    pruned = codes != DENSE.code
    counts = {
        kind: _counts(value, area, codes == code, edges)
        for code, kind in BY_CODE.items()
        if kind in (DENSE, TWO_FOUR) or (codes == code).any()
    }
    found = ScoreRecord(
        unit=f"{unit}{PER_BYTE if saved == BYTES else PER_WEIGHT}",
        edges=edges.tolist(),
        dense=counts.pop(DENSE),
        sparse=counts.pop(TWO_FOUR),
        zero=ZeroScores(dense=int((~pruned & (value <= 0)).sum()), sparse=int((pruned & (value <= 0)).sum())),
        cut=float(price.max()) if groups == 1 and budget.unit == saved else None,
        ranked=_ranked(groups, budget),
    )
    others = {kind.name: count for kind, count in counts.items()}
    return found.model_copy(update={"others": others}) if others else found


@dataclass(frozen=True)
class _Tiles:
    """Tiles of one linear, all `[tiles]`.

    value: score per saving; codes: codes of their kinds; price: cost per saving of the change that took a tile to its kind,
    -inf for dense tiles.
    """

    area: NDArray[np.int64]
    value: NDArray[np.float64]
    codes: NDArray[np.uint8]
    price: NDArray[np.float64]


def _tiles(
    scores: Mapping[TileKind, NDArray[Any]], areas: NDArray[np.int64], codes: NDArray[np.uint8], unit: str
) -> _Tiles:
    cost = {kind: np.asarray(grid, np.float64) for kind, grid in scores.items()}
    saving = {kind: tile_savings(kind, areas, unit) for kind in scores}
    value = np.minimum.reduce([cost[kind] / saving[kind] for kind in scores])
    price = np.full(areas.shape, -np.inf)
    for kind in scores:
        here = codes == kind.code
        value = np.where(here, cost[kind] / saving[kind], value)
        # The last step of the hull is the steepest way to this kind from a kind that saves less: other ways lie above the
        # hull.
        steps = [cost[kind] / saving[kind]]
        for other in scores:
            if tile_savings(other, np.ones(1), unit) < tile_savings(kind, np.ones(1), unit):
                steps.append((cost[kind] - cost[other]) / (saving[kind] - saving[other]))
        price = np.where(here, np.maximum.reduce(steps), price)
    return _Tiles(areas.ravel(), value.ravel(), codes.ravel(), price.ravel())


def _edges(low: float, high: float) -> NDArray[np.float64]:
    """Returns edges of bins of equal width on a logarithmic scale, or of a single bin if all scores are equal."""
    if high <= low * (1 + 10.0 ** (1 - _DIGITS)):
        return np.array([low, high if high > low else np.nextafter(high, np.inf)])
    inner = np.geomspace(low, high, _BINS + 1)[1:-1]
    return np.unique([low, *(float(f"{edge:.{_DIGITS - 1}e}") for edge in inner), high])


def _counts(
    value: NDArray[np.float64], area: NDArray[np.int64], which: NDArray[np.bool_], edges: NDArray[np.float64]
) -> ScoreCounts:
    here = which & (value > 0)
    tiles, _ = np.histogram(value[here], edges)
    weights, _ = np.histogram(value[here], edges, weights=area[here])
    return ScoreCounts(weights=weights.astype(np.int64).tolist(), tiles=tiles.tolist())


def _ranked(groups: int, budget: Budget) -> str:
    if budget.unit == BYTES:
        return "by score per saved byte, over all linears together"
    if budget.unit != WEIGHTS:
        return f"by score per {budget.unit} saved, not per zeroed weight"
    if groups > 1:
        return f"by score per zeroed weight, in {groups} groups of linears that each have a cut of their own"
    return "by score per zeroed weight, over all linears together"
