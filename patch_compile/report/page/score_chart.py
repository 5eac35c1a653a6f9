"""Charts the distribution of the tile scores and the cut, as a histogram of weights by kind of tile."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

from masklearn.masks.kinds.table import DENSE, PRUNED, TWO_FOUR
from masklearn.masks.maskset import MaskSet
from masklearn.masks.record import ScoreCounts, ScoreRecord
from patch_compile.report.learned import score_words
from patch_compile.report.page.chart import (
    BOTTOM,
    HEIGHT,
    LEFT,
    RIGHT,
    TOP,
    WIDTH,
    Scale,
    decades,
    percent_ticks,
    round_ticks,
)
from patch_compile.report.page.number_format import count, joined, number

__all__ = ["score_chart"]


def score_chart(masks: MaskSet) -> dict[str, Any] | None:
    """Returns bars, ticks and cut in pixels for the template, or None if the masks hold no scores.

    Heights are shares of the covered weights in a bin, one above the other: kinds that keep less below, dense at the top.
    """
    scores = masks.record.scores
    if scores is None:
        return None
    edges, total, counts = scores.edges, masks.weights, _counts(scores)
    heights = zip(*(count.weights for count in counts.values()), strict=True)
    ticks = round_ticks(max(map(sum, heights)) / total)
    x = Scale(edges[0], edges[-1], LEFT, WIDTH - RIGHT, log=True)
    y = Scale(0.0, ticks[-1], HEIGHT - BOTTOM, TOP)
    return {
        "size": (WIDTH, HEIGHT),
        "left": LEFT,
        "right": WIDTH - RIGHT,
        "base": HEIGHT - BOTTOM,
        "top": TOP,
        "kinds": [kind for kind in counts if kind != DENSE.name],
        "several": len(counts) > 2,
        "bars": list(_bars(edges, counts, total, x, y)),
        "x_ticks": [(x(value), number(value, 1)) for value in decades(edges[0], edges[-1])],
        "y_ticks": percent_ticks(ticks, y),
        "cut": _cut(scores, x),
        "unit": score_words(scores.unit),
        "ranked": scores.ranked,
        "free": scores.zero.sparse + scores.zero.dense,
        "summary": _summary(scores),
    }


def _counts(scores: ScoreRecord) -> dict[str, ScoreCounts]:
    """Returns the counts by kind, in the order of the bars' parts, without kinds that no tile has."""
    found = dict(scores.others)
    if sum(scores.sparse.tiles) or not found:
        found[TWO_FOUR.name] = scores.sparse
    order = sorted(found, key=lambda name: (-PRUNED[name].zeros, PRUNED[name].code))
    return {name: found[name] for name in order} | {DENSE.name: scores.dense}


def _bars(
    edges: Sequence[float], counts: Mapping[str, ScoreCounts], total: int, x: Scale, y: Scale
) -> Iterator[dict[str, Any]]:
    """Yield the bars that are not empty, with the place and the height of each kind's part."""
    for i, (low, high) in enumerate(pairwise(edges)):
        there = {kind: found for kind, found in counts.items() if found.weights[i]}
        if not there:
            continue
        parts, below = [], 0.0
        for kind, found in there.items():
            share = below + found.weights[i] / total
            parts.append((kind, y(share), round(y(below) - y(share), 1)))
            below = share
        tiles = ", ".join(f"{count(found.tiles[i])} tiles {kind}" for kind, found in there.items())
        yield {
            "x": x(low),
            "width": round(max(x(high) - x(low) - 1, 0.5), 1),
            "parts": parts,
            "words": f"{number(low)} to {number(high)}: {tiles}",
        }


def _cut(scores: ScoreRecord, x: Scale) -> dict[str, Any] | None:
    cut = scores.cut
    if cut is None or cut <= 0.0:
        return None
    place = x(cut)
    return {"x": place, "words": f"cut {number(cut)}", "before": place > (x.first + x.last) / 2}


def _summary(scores: ScoreRecord) -> str:
    low, high = number(scores.edges[0]), number(scores.edges[-1])
    cut = f", the cut lies at {number(scores.cut)}" if scores.cut else ""
    tiles = [f"{count(sum(found.tiles))} tiles are {kind}" for kind, found in _counts(scores).items()]
    return f"Scores reach from {low} to {high}; {joined(tiles)}{cut}."
