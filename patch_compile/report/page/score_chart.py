"""Charts the distribution of the tile scores and the cut, as a histogram of weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from masklearn.masks.maskset import MaskSet
from masklearn.masks.record import ScoreRecord
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
from patch_compile.report.page.spelling import count, number

__all__ = ["score_chart"]


def score_chart(masks: MaskSet) -> dict[str, Any] | None:
    """Returns bars, ticks and cut in pixels for the template, or None if the masks hold no scores.

    Heights are shares of the covered weights in a bin, those of 2:4 tiles below those of dense ones.
    """
    scores = masks.record.scores
    if scores is None:
        return None
    edges, total = scores.edges, masks.weights
    heights = zip(scores.sparse.weights, scores.dense.weights, strict=True)
    ticks = round_ticks(max(a + b for a, b in heights) / total)
    x = Scale(edges[0], edges[-1], LEFT, WIDTH - RIGHT, log=True)
    y = Scale(0.0, ticks[-1], HEIGHT - BOTTOM, TOP)
    return {
        "size": (WIDTH, HEIGHT),
        "left": LEFT,
        "right": WIDTH - RIGHT,
        "base": HEIGHT - BOTTOM,
        "top": TOP,
        "bars": list(_bars(scores, total, x, y)),
        "x_ticks": [(x(value), number(value, 1)) for value in decades(edges[0], edges[-1])],
        "y_ticks": percent_ticks(ticks, y),
        "cut": _cut(scores, x),
        "unit": score_words(scores.unit),
        "ranked": scores.ranked,
        "free": scores.zero.sparse + scores.zero.dense,
        "summary": _summary(scores),
    }


def _bars(scores: ScoreRecord, total: int, x: Scale, y: Scale) -> Sequence[dict[str, Any]]:
    bars = []
    for i, (low, high) in enumerate(zip(scores.edges, scores.edges[1:], strict=False)):
        sparse, dense = scores.sparse.weights[i] / total, scores.dense.weights[i] / total
        if not sparse and not dense:
            continue
        middle, end = y(sparse), y(sparse + dense)
        tiles = f"{count(scores.sparse.tiles[i])} tiles 2:4, {count(scores.dense.tiles[i])} dense"
        words = f"{number(low)} to {number(high)}: {tiles}"
        bars.append(
            {
                "x": x(low),
                "width": round(max(x(high) - x(low) - 1, 0.5), 1),
                "sparse": (middle, round(y(0) - middle, 1)),
                "dense": (end, round(middle - end, 1)),
                "words": words,
            }
        )
    return bars


def _cut(scores: ScoreRecord, x: Scale) -> dict[str, Any] | None:
    cut = scores.cut
    if cut is None or cut <= 0.0:
        return None
    place = x(cut)
    return {"x": place, "words": f"cut {number(cut)}", "before": place > (x.first + x.last) / 2}


def _summary(scores: ScoreRecord) -> str:
    sparse, dense = sum(scores.sparse.tiles), sum(scores.dense.tiles)
    low, high = number(scores.edges[0]), number(scores.edges[-1])
    cut = f", the cut lies at {number(scores.cut)}" if scores.cut else ""
    return f"Scores reach from {low} to {high}; {count(sparse)} tiles are 2:4 and {count(dense)} dense{cut}."
