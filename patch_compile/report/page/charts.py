"""Charts of the page: error by depth, and quality against size."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from masklearn import Baseline, BaselineRow
from masklearn.masks.kinds.base import BYTES_DENSE
from patch_compile.artifacts.verify_schema import BlockError
from patch_compile.report.linears import learned_types, types_words
from patch_compile.report.number_format import (
    bytes_of,
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


@dataclass(frozen=True)
class Spot:
    """A build as a point of the chart. gain: more is better; loss: less is better."""

    name: str
    gain: float
    loss: float

    def beats(self, other: Spot) -> bool:
        """Returns True if it is at least as good in both coordinates, and better in at least one."""
        at_least = self.gain >= other.gain and self.loss <= other.loss
        return at_least and (self.gain > other.gain or self.loss < other.loss)


def beaten_by(spots: Sequence[Spot]) -> dict[str, str | None]:
    """Returns the build that beats each build, by name, or None for a Pareto point.

    If several builds beat a build, it names the build with the smallest loss.
    """
    found: dict[str, str | None] = {}
    for spot in spots:
        better = [other for other in spots if other.beats(spot)]
        found[spot.name] = min(better, key=lambda one: (one.loss, -one.gain)).name if better else None
    return found


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


def frontier(sources: Sources) -> Section:
    """Returns a chart of quality against size, empty without baselines or if a loss of the build is not finite."""
    spots = list(_spots(sources))
    if (
        not sources.report.dense_given
        or len(spots) < 3
        or not all(math.isfinite(spot.loss) for spot in spots[:2])
    ):
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
