"""Summarises tile scores in a histogram that is small enough for a file's header, and their cut between dense and 2:4."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from masklearn.masks.budget import WEIGHTS, Budget
from masklearn.masks.record import ScoreCounts, ScoreRecord, ZeroScores

__all__ = ["summarise_scores"]

Grids = Mapping[str, NDArray[Any]]

_BINS = 40
_DIGITS = 4  # significant digits of an edge; counts are exact, because bins are made from the rounded edges


def summarise_scores(
    scores: Grids, areas: Grids, tiles: Grids, budget: Budget, unit: str
) -> ScoreRecord | None:
    """Returns a histogram of score per zeroed weight, or None if all tiles are 2:4, none is, or no score is above 0.

    Linears that the budget leaves dense are left out. A 2:4 tile zeroes half of its weights. A bin includes its lower edge;
    the last bin includes both edges. The histogram takes less than 4 kB in JSON.

    scores, areas, tiles: grids `[grid]` by linear, as `select` takes and returns them; unit: unit of a score, in words.
    zero (of the result): number of tiles whose score is 0, which are in no bin; cut: the highest score per zeroed weight of
    a 2:4 tile, None if tiles were not ranked by it over all linears together; ranked: the ranking, in words.
    """
    scores = {name: grid for name, grid in scores.items() if name not in budget.dense}
    chosen = np.concatenate([np.asarray(tiles[name]).ravel() for name in scores] or [np.zeros(0, np.bool_)])
    if chosen.all() or not chosen.any():
        return None
    area = np.concatenate([areas[name].ravel() for name in scores])
    score = np.concatenate([np.asarray(grid, dtype=np.float64).ravel() for grid in scores.values()])
    value = score / (area / 2)
    positive = value[value > 0.0]
    if not positive.size:
        return None
    edges = _edges(float(positive.min()), float(positive.max()))
    groups = sum(not budget.dense.issuperset(share.names) for share in budget.shares(areas))
    return ScoreRecord(
        unit=f"{unit}, per zeroed weight",
        edges=edges.tolist(),
        dense=_counts(value, area, ~chosen, edges),
        sparse=_counts(value, area, chosen, edges),
        zero=ZeroScores(dense=int((~chosen & (value <= 0)).sum()), sparse=int((chosen & (value <= 0)).sum())),
        cut=float(value[chosen].max()) if groups == 1 and budget.unit == WEIGHTS else None,
        ranked=_ranked(groups, budget),
    )


def _edges(low: float, high: float) -> NDArray[np.float64]:
    """Returns edges of bins of equal width on a logarithmic scale, or of one bin if all scores are equal."""
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
    if budget.unit != WEIGHTS:
        return f"by score per {budget.unit} saved, not per zeroed weight"
    if groups > 1:
        return f"by score per zeroed weight, in {groups} groups of linears that each have a cut of their own"
    return "by score per zeroed weight, over all linears together"
