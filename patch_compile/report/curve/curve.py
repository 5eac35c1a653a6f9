"""Lays out the picture: quality of each build against an axis, in pixels for the template."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from patch_compile.artifacts.compare import DENSE, BuildRow, CompareReport
from patch_compile.report.compare import MEASURES, axis_label, axis_words, method_words
from patch_compile.report.page import chart
from patch_compile.report.page.labels import REACH, SIZE, Box, Point, place_labels
from patch_compile.report.page.number_format import number
from patch_compile.report.page.text_width import lines_within, text_width

__all__ = ["MARKERS", "STAR", "curve"]

_PLOT, _EDGE, _LINE = 340, 20, 18  # height of the axes, margin, and height of a line of text, in pixels
_TITLE = 14 * 1.15  # of the font, in pixels, and as much wider as bold is
_X_MARGIN = 0.14
_COLOURS = 6  # of theme.css
# Outlines around (0, 0) of equal weight to the eye, so that methods differ in print and to any colour vision.
MARKERS = {
    "circle": "M-6 0a6 6 0 1 0 12 0a6 6 0 1 0 -12 0Z",
    "square": "M-5.4 -5.4h10.8v10.8h-10.8Z",
    "triangle": "M0 -7L6.6 5H-6.6Z",
    "diamond": "M0 -7.4L7.4 0L0 7.4L-7.4 0Z",
    "pointing down": "M0 7L6.6 -5H-6.6Z",
    "cross": "M-2.4 -6.6h4.8v4.2h4.2v4.8h-4.2v4.2h-4.8v-4.2h-4.2v-4.8h4.2Z",
}
STAR = "M" + "L".join(
    f"{radius * math.sin(turn * math.pi / 5):.1f} {-radius * math.cos(turn * math.pi / 5):.1f}"
    for turn, radius in enumerate((8.5, 3.5) * 5)
) + "Z"  # fmt: skip


def curve(report: CompareReport) -> dict[str, Any]:
    """Returns marks, labels, lines, axes and legend of the picture."""
    builds, quality, axis = report.builds, report.quality, report.axis
    what = MEASURES[quality.measure]
    title = f"{Path(report.model.path).stem}: {what} on {quality.on}"
    titles = lines_within(_shown(title), _TITLE, chart.WIDTH - 2 * _EDGE)
    legend = _legend(builds, _EDGE + _LINE * len(titles) + _LINE / 2)
    top = legend[-1]["y"] + 2.5 * _LINE
    spots = [(DENSE, axis.dense, quality.dense)]
    spots += [(build.name, build.at, build.quality) for build in builds]
    y, y_ticks = chart.loss_axis(
        [loss for *_, loss in spots if math.isfinite(loss)] or [1.0], top + _PLOT, top
    )
    left = round(_EDGE + 8 + max(text_width(words, SIZE) for _, words in y_ticks))
    x, x_ticks = _x_axis([value for _, value, _ in spots], left, axis.against.sign)
    # A perplexity that overflowed lies at the upper edge, and its name says so.
    points = {
        name: (x(value), y(loss) if math.isfinite(loss) else top + REACH + 1) for name, value, loss in spots
    }
    pareto = sorted(points[name] for name in _unbeaten(report))
    dashed = [(left, points[DENSE][1]), (chart.WIDTH - _EDGE, points[DENSE][1])]
    names = [(_label("dense", quality.dense), points[DENSE])]
    names += [(_label(build.name, build.quality), points[build.name]) for build in builds]
    inside = Box(left, top, chart.WIDTH - _EDGE, top + _PLOT)
    words = lines_within(_shown(axis_label(report)), SIZE, chart.WIDTH - left - _EDGE)
    base = round(top + _PLOT)
    return {
        "size": (chart.WIDTH, base + 2 * _LINE + _LINE * len(words) + _EDGE / 2),
        "titles": [(_EDGE, _EDGE + _LINE * (i + 0.5), line) for i, line in enumerate(titles)],
        "legend": legend,
        "above": (_EDGE, top - 12, f"{what} (lower is better)"),
        "below": [(_middle(left), base + 2 * _LINE + 4 + _LINE * i, line) for i, line in enumerate(words)],
        "left": left, "right": chart.WIDTH - _EDGE, "top": top, "base": base,
        "x_ticks": x_ticks, "y_ticks": y_ticks,
        "dashed": dashed, "pareto": pareto,
        "marks": _marks(report, points),
        "star": {"x": points[DENSE][0], "y": points[DENSE][1], "outline": STAR,
                 "words": _words(report, "dense", quality.dense, axis.dense)},
        "labels": place_labels(names, inside, [dashed, pareto]),
        "summary": _summary(report),
    }  # fmt: skip


def _label(name: str, loss: float) -> str:
    return _shown(name if math.isfinite(loss) else f"{name} ({number(loss)})")


def _middle(left: float) -> float:
    return (left + chart.WIDTH - _EDGE) / 2


def _shown(text: str) -> str:
    """Returns text with a sign in place of what can't be printed, such as bytes of a path that are no UTF-8."""
    return "".join(
        char if char.isprintable() or char == "\n" else "\N{REPLACEMENT CHARACTER}" for char in text
    )


def _x_axis(values: Sequence[float], left: float, sign: int) -> tuple[chart.Scale, list[tuple[float, str]]]:
    """Returns the axis and its ticks. Better is to the right in every picture."""
    ends = (left, chart.WIDTH - _EDGE)[::sign]
    return chart.linear_axis(values, _X_MARGIN, *ends)


def _style(builds: Sequence[BuildRow]) -> dict[str, tuple[str, int]]:
    """Returns outline and number of the colour by method. The first 36 methods all look different."""
    methods, outlines = list(dict.fromkeys(map(method_words, builds))), list(MARKERS.values())
    around = len(outlines)
    return {
        method: (outlines[i % around], (i + i // around) % _COLOURS + 1) for i, method in enumerate(methods)
    }


def _marks(report: CompareReport, points: Mapping[str, Point]) -> list[dict[str, Any]]:
    style, marks = _style(report.builds), []
    for build in report.builds:
        method, better = method_words(build), build.beaten_by
        (x, y), (outline, colour) = points[build.name], style[method]
        words = _words(report, build.name, build.quality, build.at)
        words += f", {method}" + (f", beaten by {better}" if better else "")
        marks.append({"x": x, "y": y, "outline": outline, "colour": colour, "beaten": bool(better),
                      "words": _shown(words)})  # fmt: skip
    return sorted(marks, key=lambda mark: not mark["beaten"])  # a Pareto point hides what it beats


def _words(report: CompareReport, name: str, loss: float, value: float) -> str:
    what, axis = MEASURES[report.quality.measure], report.axis
    return f"{name}: {what} {number(loss, 4)}, {axis_words(axis)} {value:.{axis.against.digits}f}"


def _summary(report: CompareReport) -> str:
    what, best = MEASURES[report.quality.measure], ", ".join(report.pareto)
    return _shown(f"{what} against {axis_words(report.axis)}; Pareto points: {best or 'none'}.")


def _unbeaten(report: CompareReport) -> Iterator[str]:
    """Yield the names of the Pareto points, with the dense model if it is one."""
    yield from report.pareto
    if report.dense_beaten_by is None:
        yield DENSE


def _legend(builds: Sequence[BuildRow], y: float) -> list[dict[str, Any]]:
    """Returns the entries from left to right, in as many rows as they need."""
    entries: list[dict[str, Any]] = [
        {"words": _shown(method), "outline": outline, "colour": colour}
        for method, (outline, colour) in _style(builds).items()
    ]
    if not all(build.beaten_by for build in builds):
        entries.append({"words": "Pareto points", "outline": None})
    if any(build.beaten_by for build in builds):
        entries.append({"words": "beaten by another (hollow)", "outline": MARKERS["circle"], "colour": None})
    x: float = _EDGE
    for entry in entries:
        width = 3 * REACH + text_width(entry["words"], SIZE)
        if x > _EDGE and x + width > chart.WIDTH - _EDGE:
            x, y = _EDGE, y + _LINE
        entry |= {"x": round(x, 1), "y": y}
        x += width + _LINE
    return entries
