"""Charts of the page: error by depth, scores of tiles, and quality against size."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

from masklearn import Baseline, BaselineRow
from masklearn.masks.kinds.base import BYTES_DENSE
from masklearn.masks.kinds.table import DENSE, PRUNED, TWO_FOUR
from masklearn.masks.maskset import MaskSet
from masklearn.masks.record import ScoreCounts, ScoreRecord
from patch_compile.artifacts.verify_schema import BlockError
from patch_compile.report.compare import Spot, beaten_by
from patch_compile.report.learned import score_words
from patch_compile.report.linears import learned_types, types_words
from patch_compile.report.number_format import (
    bytes_of,
    count,
    joined,
    kind_class,
    number,
    percent,
    perplexity,
)
from patch_compile.report.page.page_data import Sources
from patch_compile.report.section import Section
from patch_compile.report.svg import (
    MARKERS,
    Box,
    Point,
    Scale,
    decades,
    frame,
    linear_axis,
    loss_axis,
    mark,
    named,
    percent_ticks,
    picture,
    place_labels,
    polyline,
    round_ticks,
    tag,
)

if TYPE_CHECKING:
    from markupsafe import Markup

_INSIDE, _WIDTH, _HEIGHT = Box(56, 16, 708, 220), 720, 274  # of most charts, in pixels
_NARROW, _NARROW_WIDTH, _NARROW_HEIGHT = Box(56, 16, 468, 260), 480, 314  # so that a phone shows it whole
_LABELS = 12  # block numbers that fit below
_THIS, _DENSE = "this build", "dense"
_CLASSES = {_DENSE: "dense", _THIS: "build"}  # of marks; baselines have another


def depth_chart(blocks: Sequence[BlockError]) -> tuple[Markup, str] | None:
    """Returns a chart of the error of each block's output, and a sentence on it; None for fewer than two blocks."""
    if len(blocks) < 2:
        return None
    ticks = round_ticks(max(row.error for row in blocks))
    first, last = blocks[0], blocks[-1]
    x = Scale(first.block, last.block, _INSIDE.left + 8, _INSIDE.right - 8)
    y = Scale(0.0, ticks[-1], _INSIDE.bottom, _INSIDE.top)
    points = [(x(row.block), y(row.error)) for row in blocks]
    dots = [
        tag("circle", tag("title", f"block {row.block}: {percent(row.error, 1)}"), cx=at[0], cy=at[1], r=3.5)
        for row, at in zip(blocks, points, strict=True)
    ]
    worst = max(blocks, key=lambda row: row.error)
    x_ticks = [(x(row.block), str(row.block)) for row in blocks[:: max(1, -(-len(blocks) // _LABELS))]]
    summary = (
        f"The output of block {first.block} is off by {percent(first.error, 1)}, the output of block {last.block} by "
        f"{percent(last.error, 1)}; the largest is {percent(worst.error, 1)} at block {worst.block}."
    )
    axes = frame(_INSIDE, x_ticks, percent_ticks(ticks, y), "block")
    drawn = (axes, polyline(points, "line"), tag("g", *dots, class_="points"))
    return picture(_WIDTH, _HEIGHT, summary, *drawn), summary


def scores(masks: MaskSet) -> Section:
    """Returns a histogram of the tile scores with the cut, empty if the masks hold no scores.

    Heights are shares of the covered weights in a bin, one above the other: kinds that keep less below, dense at the top.
    """
    found = masks.record.scores
    if found is None:
        return Section()
    counts = _counts(found)
    kinds = [kind for kind in counts if kind != DENSE.name]
    several, cut = len(counts) > 2, bool(found.cut and found.cut > 0.0)
    costs = "turning a tile " + kinds[0] + " costs, by the method’s own measure."
    if several:
        costs = (
            "pruning a tile costs, by the method’s own measure: a pruned tile in its own kind, a dense tile in the kind "
            "that would cost least."
        )
    tighter = " No step of a tile to a tighter kind costs more than the cut." * (several and cut)
    summary = _score_summary(found, counts)
    free = found.zero.sparse + found.zero.dense
    lines = ["Heights are shares of the covered weights."]
    lines += [f"{count(free)} tiles cost nothing and are in no bar."] if free else []
    return Section(
        "Tile scores and the cut",
        id="scores",
        about=f"What {costs} Tiles were ranked {found.ranked}. {summary}{tighter}",
        chart=_histogram(found, counts, masks.weights, summary),
        lines=lines,
    )


def _counts(found: ScoreRecord) -> dict[str, ScoreCounts]:
    """Returns the counts by kind, in the order of the bars' parts, without kinds that no tile has."""
    others = dict(found.others)
    if sum(found.sparse.tiles) or not others:
        others[TWO_FOUR.name] = found.sparse
    order = sorted(others, key=lambda name: (-PRUNED[name].zeros, PRUNED[name].code))
    return {name: others[name] for name in order} | {DENSE.name: found.dense}


def _histogram(found: ScoreRecord, counts: Mapping[str, ScoreCounts], total: int, summary: str) -> Markup:
    edges = found.edges
    ticks = round_ticks(max(map(sum, zip(*(one.weights for one in counts.values()), strict=True))) / total)
    x = Scale(edges[0], edges[-1], _INSIDE.left, _INSIDE.right, log=True)
    y = Scale(0.0, ticks[-1], _INSIDE.bottom, _INSIDE.top)
    x_ticks = [(x(value), number(value, 1)) for value in decades(edges[0], edges[-1])]
    axes = frame(_INSIDE, x_ticks, percent_ticks(ticks, y), score_words(found.unit))
    bars = tag("g", *_bars(edges, counts, total, x, y), class_="bars")
    return picture(_WIDTH, _HEIGHT + 24, summary, axes, bars, *_cut(found.cut, x), *_key(counts))


def _bars(
    edges: Sequence[float], counts: Mapping[str, ScoreCounts], total: int, x: Scale, y: Scale
) -> Iterator[Markup]:
    """Yield the bars that are not empty, each with a part for each kind."""
    for i, (low, high) in enumerate(pairwise(edges)):
        there = {kind: found for kind, found in counts.items() if found.weights[i]}
        parts, below = [], 0.0
        for kind, found in there.items():
            share = below + found.weights[i] / total
            size = {
                "width": round(max(x(high) - x(low) - 1, 0.5), 1),
                "height": round(y(below) - y(share), 1),
            }
            parts.append(tag("rect", class_=_class(kind), x=x(low), y=y(share), **size))
            below = share
        tiles = ", ".join(f"{count(found.tiles[i])} tiles {kind}" for kind, found in there.items())
        if parts:
            yield tag("g", tag("title", f"{number(low)} to {number(high)}: {tiles}"), *parts)


def _class(kind: str) -> str:
    return "dense" if kind == DENSE.name else kind_class(kind)


def _cut(cut: float | None, x: Scale) -> Iterator[Markup]:
    if not cut or cut <= 0.0:
        return
    at, before = x(cut), x(cut) > (x.first + x.last) / 2
    line = tag("line", x1=at, x2=at, y1=_INSIDE.top - 8, y2=_INSIDE.bottom)
    anchor = {"x": at - 8, "text_anchor": "end"} if before else {"x": at + 8, "text_anchor": "start"}
    yield tag("g", line, tag("text", f"cut {number(cut)}", y=_INSIDE.top + 2, **anchor), class_="cut")


def _key(kinds: Iterator[str] | Mapping[str, ScoreCounts]) -> Iterator[Markup]:
    """Yield a square and a name for each kind of tile, below the chart."""
    x = _INSIDE.left
    for kind in kinds:
        square = tag("rect", class_=_class(kind), x=x, y=_HEIGHT + 6, width=10, height=10)
        yield tag("g", square, tag("text", f"{kind} tiles", x=x + 16, y=_HEIGHT + 15), class_="bars")
        x += 96


def _score_summary(found: ScoreRecord, counts: Mapping[str, ScoreCounts]) -> str:
    low, high = number(found.edges[0]), number(found.edges[-1])
    cut = f", the cut lies at {number(found.cut)}" if found.cut else ""
    tiles = [f"{count(sum(one.tiles))} tiles are {kind}" for kind, one in counts.items()]
    return f"Scores reach from {low} to {high}; {joined(tiles)}{cut}."


def frontier(sources: Sources) -> Section:
    """Returns a chart of quality against size, empty without baselines or if a loss of the build is not finite."""
    spots = list(_spots(sources))
    if len(spots) < 3 or not all(math.isfinite(spot.loss) for spot in spots[:2]):
        return Section()
    spots = [spot for spot in spots if math.isfinite(spot.loss)]
    beaten = beaten_by(spots)
    summary = _frontier_summary(beaten[_THIS])
    lines = []
    if types := types_words(learned_types(sources.masks)):
        lines.append(f"Diamonds have quantised weights ({types}), the circle is the dense model in 16 bits.")
    lines.append(
        "Baselines were not packed: their size follows from the kinds of their tiles. Unstructured pruning is left out, "
        "since no kernel makes it smaller."
    )
    return Section(
        "Quality against size",
        id="frontier",
        about=(
            "Perplexity (lower is better) over the size of the covered weights (smaller is further right). Each generated "
            f"token reads all of them, so a smaller model also decodes faster. {summary}"
        ),
        chart=_scatter(spots, beaten, bool(sources.masks.grids), summary),
        lines=lines,
    )


def _scatter(
    spots: Sequence[Spot], beaten: Mapping[str, str | None], quantised: bool, summary: str
) -> Markup:
    inside = _NARROW
    y, y_ticks = loss_axis([spot.loss for spot in spots], inside.bottom, 2 * inside.top)
    x, x_ticks = linear_axis([-spot.gain / 1e6 for spot in spots], 0.14, inside.right, inside.left)
    points: dict[str, Point] = {spot.name: (x(-spot.gain / 1e6), y(spot.loss)) for spot in spots}
    line = sorted(points[name] for name, better in beaten.items() if better is None)
    marks = []
    for spot in spots:
        better = beaten[spot.name]
        words = f"{spot.name}: {perplexity(spot.loss)}, {bytes_of(-spot.gain)}"
        words += f", beaten by {better}" if better else ""
        outline = MARKERS["diamond" if quantised and spot.name != _DENSE else "circle"]
        class_ = f"{_CLASSES.get(spot.name, 'baseline')}{' beaten' * bool(better)}"
        marks.append(mark(outline, class_, points[spot.name], words))
    labels = place_labels([(spot.name, points[spot.name]) for spot in spots], inside, [line])
    return picture(
        _NARROW_WIDTH,
        _NARROW_HEIGHT,
        summary,
        frame(inside, x_ticks, y_ticks, "covered weights, MB"),
        polyline(line, "line") if len(line) > 1 else "",
        tag("text", "perplexity", x=inside.left - 46, y=inside.top - 4),
        tag("g", *marks, class_="spots"),
        named(labels, this_build="this"),
    )


def _spots(sources: Sources) -> Iterator[Spot]:
    """Yield the dense model, the build, and the baselines that a kernel runs, all evaluated alike. Their gain is −bytes of
    the covered weights."""
    totals, found = sources.report.plan.totals, sources.baselines
    dense = found and next((row for row in found.rows if row.name == Baseline.DENSE), None)
    if not found or not dense:
        return
    before = totals.bytes_before
    yield Spot(_DENSE, -before, dense.perplexity)
    yield Spot(_THIS, -totals.bytes_after, found.result.perplexity)
    others = (row for row in found.rows[1:] if row.deployable and row.name != Baseline.DENSE)
    yield from (Spot(row.name, -_size(row, before), row.perplexity) for row in others)


def _size(row: BaselineRow, before: int) -> float:
    """Returns the bytes of a baseline, which was not packed, by its bytes of a weight."""
    return before * row.bytes_per_weight / BYTES_DENSE


def _frontier_summary(better: str | None) -> str:
    if better:
        which = "dense model" if better == _DENSE else f"baseline {better}"
        return f"The {which} is not larger than this build and loses less."
    return "No baseline that was measured is as small as this build and loses less."
