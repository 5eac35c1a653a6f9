"""How the tile scores are spread, and where the cut between dense and 2:4 lies: a histogram small enough for a header."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from masklearn.masks.budget import WEIGHTS, Budget
from masklearn.masks.record import ScoreCounts, ScoreRecord, ZeroScores

__all__ = ["summarise_scores"]

Grids = Mapping[str, NDArray[Any]]

_BINS = 40
_DIGITS = 4  # of an edge: the bins are made of the rounded edges, so that counts are exact


def summarise_scores(
    scores: Grids, areas: Grids, tiles: Grids, budget: Budget, unit: str
) -> ScoreRecord | None:
    """Histogram of score per zeroed weight, of less than 4 kB in JSON; None where all tiles are 2:4, or none is.

    scores, areas, tiles: by linear, `[grid]` each, as `select` takes and gives them; unit: of a score, in words. A tile
    zeroes half of its weights. A bin holds its lower edge and the last one both. zero: tiles whose score is 0, which lie
    in no bin; cut: the highest score per zeroed weight of a 2:4 tile, None where tiles were not ranked by it over all
    linears together; ranked: what they were ranked by, in words.
    """
    chosen = np.concatenate([np.asarray(tiles[name]).ravel() for name in scores])
    if chosen.all() or not chosen.any():
        return None
    area = np.concatenate([areas[name].ravel() for name in scores])
    score = np.concatenate([np.asarray(grid, dtype=np.float64).ravel() for grid in scores.values()])
    value = score / (area / 2)
    positive = value[value > 0.0]
    if not positive.size:
        return None
    edges = _edges(float(positive.min()), float(positive.max()))
    groups = len(budget.shares(areas))
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
    """Bins of equal width in the logarithm; one bin where all scores are one."""
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
