"""Draws a comparison of builds as a picture: quality of each build against an axis."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from masklearn.base.durable import whole_file
from patch_compile.artifacts.compare import DENSE, BuildRow, CompareReport
from patch_compile.report.compare import axis_label, axis_words, method_words
from patch_compile.report.number_format import number
from patch_compile.report.page.rendering import asset, themed
from patch_compile.report.svg import (
    MARKERS,
    REACH,
    SIZE,
    Box,
    Point,
    Scale,
    frame,
    linear_axis,
    lines_within,
    loss_axis,
    mark,
    named,
    place_labels,
    polyline,
    tag,
    text_width,
)

if TYPE_CHECKING:
    from markupsafe import Markup

# Of the picture, its axes, a margin and a line of text, in pixels.
_WIDTH, _PLOT, _EDGE, _LINE = 720, 340, 20, 18
_TITLE = 14 * 1.15  # of the font, in pixels, and as much wider as bold is
_X_MARGIN = 0.14
_COLOURS = 6  # of theme.css
_OUTLINES = [outline for name, outline in MARKERS.items() if name != "star"]


def draw(report: CompareReport, file: Path) -> None:
    """Write the picture. The file is renamed into place when it is complete.

    It follows the viewer's light or dark scheme. Equal builds give equal bytes.
    """
    with whole_file(file) as part:
        part.write_text(curve(report), encoding="utf-8")


def curve(report: CompareReport) -> Markup:
    quality, what = report.quality, report.quality.measure.words
    titles = lines_within(_shown(f"{report.model.name}: {what} on {quality.on}"), _TITLE, _WIDTH - 2 * _EDGE)
    legend, below = _legend(report.builds, _EDGE + _LINE * len(titles) + _LINE / 2)
    top = below + 2.5 * _LINE
    spots = [
        (DENSE, report.axis.dense, quality.dense),
        *((one.name, one.at, one.quality) for one in report.builds),
    ]
    finite = [loss for *_, loss in spots if math.isfinite(loss)] or [1.0]
    y, y_ticks = loss_axis(finite, top + _PLOT, top)
    left = round(_EDGE + 8 + max(text_width(words, SIZE) for _, words in y_ticks))
    inside = Box(left, top, _WIDTH - _EDGE, round(top + _PLOT))
    ends = (inside.left, inside.right)[:: report.axis.against.sign]  # better is to the right in every picture
    x, x_ticks = linear_axis([value for _, value, _ in spots], _X_MARGIN, *ends)
    points = _points(spots, x, y, top)
    unbeaten = [*report.pareto, *([DENSE] if report.dense_beaten_by is None else [])]
    pareto = sorted(points[name] for name in unbeaten)
    dashed = [(inside.left, points[DENSE][1]), (inside.right, points[DENSE][1])]
    names = [(_label("dense", quality.dense), points[DENSE])]
    names += [(_label(one.name, one.quality), points[one.name]) for one in report.builds]
    words = lines_within(_shown(axis_label(report)), SIZE, inside.right - inside.left)
    height = inside.bottom + 2 * _LINE + _LINE * len(words) + _EDGE / 2
    unbeaten_words = ", ".join(report.pareto) or "none"
    return _document(
        " ".join(titles),
        _shown(f"{what} against {axis_words(report.axis)}; Pareto points: {unbeaten_words}."),
        height,
        *_texts(titles, "title", _EDGE, _EDGE + _LINE / 2),
        *legend,
        tag("text", f"{what} (lower is better)", class_="what", x=_EDGE, y=top - 12),
        frame(inside, x_ticks, y_ticks),
        *_texts(words, "label what", (left + inside.right) / 2, inside.bottom + 2 * _LINE + 4),
        polyline(dashed, "dashed"),
        polyline(pareto, "pareto") if pareto else "",
        *_marks(report, points),
        named(place_labels(names, inside, [dashed, pareto])),
    )


def _document(title: str, summary: str, height: float, *parts: object) -> Markup:
    from markupsafe import Markup

    about = (tag("title", title, id="title"), tag("desc", summary, id="summary"))
    style = tag("style", Markup(themed(asset("chart.css"))))
    paper = tag("rect", class_="paper", width="100%", height="100%")
    size = {"width": _WIDTH, "height": height, "viewBox": f"0 0 {_WIDTH} {height}"}
    named_by = {"xmlns": "http://www.w3.org/2000/svg", "role": "img", "aria_labelledby": "title summary"}
    return tag("svg", *about, style, paper, *parts, class_="chart", **size, **named_by)


def _texts(lines: Sequence[str], class_: str, x: float, y: float) -> Iterator[Markup]:
    yield from (tag("text", line, class_=class_, x=x, y=y + _LINE * i) for i, line in enumerate(lines))


def _points(spots: Sequence[tuple[str, float, float]], x: Scale, y: Scale, top: float) -> dict[str, Point]:
    """Returns the places by name. A perplexity that overflowed lies at the upper edge, and its name says so."""
    return {
        name: (x(value), y(loss) if math.isfinite(loss) else top + REACH + 1) for name, value, loss in spots
    }


def _label(name: str, loss: float) -> str:
    return _shown(name if math.isfinite(loss) else f"{name} ({number(loss)})")


def _shown(text: str) -> str:
    """Returns text with a sign in place of characters that can't be printed, such as bytes of a path that are not UTF-8."""
    return "".join(
        char if char.isprintable() or char == "\n" else "\N{REPLACEMENT CHARACTER}" for char in text
    )


def _style(builds: Sequence[BuildRow]) -> dict[str, tuple[str, int]]:
    """Returns outline and number of the colour by method. The first 36 methods all look different."""
    methods, around = list(dict.fromkeys(map(method_words, builds))), len(_OUTLINES)
    return {
        method: (_OUTLINES[i % around], (i + i // around) % _COLOURS + 1) for i, method in enumerate(methods)
    }


def _marks(report: CompareReport, points: Mapping[str, Point]) -> Iterator[Markup]:
    """Yield the marks, Pareto points last: each mark hides the points that it beats."""
    style, axis = _style(report.builds), report.axis
    dense = _words(report, "dense", report.quality.dense, axis.dense)
    yield mark(MARKERS["star"], "star", points[DENSE], dense)
    for build in sorted(report.builds, key=lambda one: not one.beaten_by):
        method, better = method_words(build), build.beaten_by
        outline, colour = style[method]
        words = _words(report, build.name, build.quality, build.at)
        words += f", {method}" + (f", beaten by {better}" if better else "")
        yield mark(outline, f"c{colour}{' beaten' * bool(better)}", points[build.name], _shown(words))


def _words(report: CompareReport, name: str, loss: float, value: float) -> str:
    what, axis = report.quality.measure.words, report.axis
    return f"{name}: {what} {number(loss, 4)}, {axis_words(axis)} {value:.{axis.against.digits}f}"


def _legend(builds: Sequence[BuildRow], y: float) -> tuple[list[Markup], float]:
    """Returns the entries from left to right, in as many rows as they need, and the height of the last row."""
    entries = [
        (_shown(method), outline, f"c{colour}") for method, (outline, colour) in _style(builds).items()
    ]
    if not all(build.beaten_by for build in builds):
        entries.append(("Pareto points", "", ""))
    if any(build.beaten_by for build in builds):
        entries.append(("beaten by another (hollow)", MARKERS["circle"], "beaten"))
    parts, x = [], float(_EDGE)
    for words, outline, class_ in entries:
        width = 3 * REACH + text_width(words, SIZE)
        if x > _EDGE and x + width > _WIDTH - _EDGE:
            x, y = float(_EDGE), y + _LINE
        drawn = mark(outline, class_, (x + 8, y)) if outline else polyline([(x, y), (x + 16, y)], "pareto")
        parts.append(tag("g", drawn, tag("text", words, x=round(x + 22, 1), y=y + 4), class_="legend"))
        x += width + _LINE
    return parts, y
