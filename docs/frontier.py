"""Draws perplexity against the predicted speed of prefill, for README and docs/explanation/quality.md.

    python -m docs.frontier

The rows are in docs/explanation/quality.json, and the picture lies next to them. Speeds are the planner's predictions for a
large model with the same shares of kinds, because the measured model is too small to gain.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks.kernels.roofline import MODELS
from docs.svg import (
    MARKERS,
    SIZE,
    Box,
    Point,
    frame,
    linear_axis,
    lines_within,
    mark,
    named,
    place_labels,
    polyline,
    tag,
    themed,
)
from masklearn.masks.kinds.table import DENSE, PRUNED, TWO_FOUR
from masklearn.masks.tiles import grid_shape
from masklearn.quant.table import FLOAT16, W8A8, WeightType
from patch_compile.artifacts.prediction import Workload
from patch_compile.hardware.cards import RatedCard, card_named
from patch_compile.planning.cards import PlanCard
from patch_compile.planning.cost import CostModel
from patch_compile.planning.lowering import plan_linear
from patch_compile.planning.outline import outline_of_llama
from patch_compile.planning.planner import settle_together
from patch_compile.planning.predict import predict_whole
from patch_compile.planning.tile_map import TileKinds

Row = Mapping[str, Any]
_DOCS = Path(__file__).parent
ROWS = _DOCS / "explanation/quality.json"

_CARD, _MODEL, _TILE = "A6000", "LLaMA-2-7B", (128, 128)
_MEASURED_TILE = "64x64"
_WORK = Workload(batch=16, prompt=512, generated=1)


@dataclass(frozen=True)
class Series:
    """Rows that share a mark. outline: of `MARKERS`; style: CSS classes; dash: of their line, None for no line."""

    words: str
    outline: str
    style: str
    dash: str | None = None


# The colour says the kind of the tiles, and full marks multiply in int8. Dense int8 and int4 weights with 16-bit inputs are
# left out: prompts gain nothing by them.
_DENSE = Series("dense", "square", "dense")
SERIES = {
    "dense": _DENSE,
    "dense, w8a8": _DENSE,
    "sparsegpt 2:4": Series("2:4 everywhere, fp16, by SparseGPT", "triangle", "two-four hollow"),
    "oneshot, 8 min in all, permuted": Series(
        "2:4 and dense tiles, fp16", "circle", "two-four hollow", "5 3"
    ),
    "oneshot + 13 steps of repair, w8a8": Series("2:4 and dense tiles, W8A8", "circle", "two-four", ""),
    "oneshot + 13 steps of repair, kinds 6:8, w8a8": Series("6:8 everywhere, W8A8", "diamond", "six-eight"),
}
_RIVAL = "dense, w8a8"
_SPEED = (
    f"speed over dense fp16, predicted for {_MODEL} on an {_CARD}, prefill of {_WORK.batch} × {_WORK.prompt} tokens; "
    "dashed: dense W8A8, the rival in prefill"
)
_WIDTH, _HEIGHT, _EDGE, _LINE = 480, 260, 16, 18  # pixels; _HEIGHT: of the axes
_SHOWN_WIDTH = 640  # of the picture, where the page has room
HIGHEST = 40.0  # perplexity: rows above it lie at the upper edge of the picture, and say theirs


@dataclass(frozen=True)
class Spot:
    """The rows of one method at one ratio, of all seeds. speed: predicted, of a prompt over dense fp16."""

    method: str
    label: str
    speed: float
    losses: tuple[float, ...]

    @property
    def loss(self) -> float:
        """Median perplexity."""
        return median(self.losses)


def kinds_of(row: Row) -> Mapping[str, float]:
    """Returns the shares of a row's weights by kind. Rows without a record of them have dense and 2:4 tiles."""
    two_four = row["reached"] / TWO_FOUR.zeros
    return row.get("kinds") or {DENSE.name: 1 - two_four, TWO_FOUR.name: two_four}


def type_of(row: Row) -> WeightType:
    """Returns the type of a row's weights, which its method names."""
    return W8A8 if str(row["method"]).endswith(", w8a8") else FLOAT16


def spots(rows: Sequence[Row]) -> list[Spot]:
    """Returns the spots of the picture, in the order of the legend."""
    found: dict[tuple[str, Any], list[Row]] = {}
    for row in rows:
        if row["method"] in SERIES and row["tile"] == _MEASURED_TILE:
            found.setdefault((row["method"], row["ratio"]), []).append(row)
    made = [_spot(method, alike) for (method, _), alike in found.items()]
    return sorted(made, key=lambda spot: (list(SERIES).index(spot.method), spot.speed))


def _spot(method: str, rows: Sequence[Row]) -> Spot:
    first = rows[0]
    losses = tuple(sorted(row["perplexity"] for row in rows))
    label = "" if first["ratio"] is None else f"ratio {first['ratio']:.2f}"
    if SERIES[method] is _DENSE:
        label = "W8A8" if type_of(first) is W8A8 else "fp16"
    if losses[0] > HIGHEST:
        label = f"{label} ↑ {losses[0]:.0f} to {losses[-1]:.0f}".lstrip()
    shares = tuple(sorted((kind, share) for kind, share in kinds_of(first).items() if share))
    return Spot(method, label, _ms(((DENSE.name, 1.0),), FLOAT16) / _ms(shares, type_of(first)), losses)


@cache
def _ms(shares: tuple[tuple[str, float], ...], weights: WeightType) -> float:
    """Returns the predicted milliseconds of a prompt if all linears have these shares of kinds and this type.

    A dense model takes the time of other programs' dense products, if the planner knows them.
    """
    card = card_named(_CARD)
    assert isinstance(card, RatedCard)
    linears, outline = outline_of_llama(MODELS[_MODEL])
    costs = CostModel(PlanCard(card), _WORK)
    by_shape = {}
    for shape in {*linears.values()}:
        grid = grid_shape(shape, _TILE)
        kinds = np.full(grid[0] * grid[1], DENSE.code, np.uint8)
        ends = np.cumsum([0, *(round(share * kinds.size) for _, share in shares)])
        for (name, _), begin, end in zip(shares, ends[:-1], ends[1:], strict=True):
            kinds[begin:end] = PRUNED[name].code if name in PRUNED else DENSE.code
        spread = np.random.default_rng(0).permutation(kinds).reshape(grid)
        by_shape[shape] = plan_linear("", TileKinds(shape, _TILE, spread), costs=costs, weights=weights)
    plans = {name: by_shape[shape].named(name) for name, shape in linears.items()}
    phase = predict_whole(settle_together(plans, "plugin", outline, costs).values(), outline, costs).prefill
    return phase.library_ms if [kind for kind, _ in shares] == [DENSE.name] else phase.planned_ms


def draw(rows: Sequence[Row]) -> str:
    """Returns the picture as SVG. Equal rows give equal text."""
    found = spots(rows)
    from markupsafe import Markup

    parts, below = _legend(found)
    above = lines_within(said_of(rows), SIZE, _WIDTH - 2 * _EDGE)
    top = below + (1.7 + len(above)) * _LINE
    inside = Box(_EDGE + 24, top, _WIDTH - _EDGE, top + _HEIGHT)
    under = lines_within(_SPEED, SIZE, inside.right - inside.left)
    height = inside.bottom + (2 + len(under)) * _LINE
    what = "Perplexity against the predicted speed of prefill"
    style = Markup(themed((_DOCS / "chart.css").read_text()))
    size = {"width": _SHOWN_WIDTH, "viewBox": f"0 0 {_WIDTH} {height:.0f}"}
    return tag(
        "svg",
        tag("title", what, id="what"),
        tag("style", style),
        tag("rect", class_="paper", width="100%", height="100%"),
        *parts,
        *_texts(above, "what", _EDGE, below + 1.7 * _LINE),
        *_panel(found, inside),
        *_texts(under, "label what", (inside.left + inside.right) / 2, inside.bottom + 2.2 * _LINE),
        class_="chart",
        **size,
        xmlns="http://www.w3.org/2000/svg",
        role="img",
        aria_labelledby="what",
    )


def said_of(rows: Sequence[Row]) -> str:
    """Returns the name of the vertical axis: the measured quantity and the text."""
    under = next(row["under"] for row in rows if row["method"] in SERIES)
    on = f"{under['eval']}, first {under['eval_windows']} windows × {under['eval_length']} tokens"
    return f"perplexity of {under['model']} on {on} (lower is better)"


def _texts(lines: Sequence[str], class_: str, x: float, y: float) -> Iterator[str]:
    for i, line in enumerate(lines):
        yield tag("text", line, class_=class_, x=x, y=round(y + i * 16, 1))


def _legend(found: Sequence[Spot]) -> tuple[list[str], float]:
    """Returns the legend, a line for each series, and the pixel below it."""
    parts, y = [], float(_EDGE)
    for one in dict.fromkeys(SERIES[spot.method] for spot in found):
        if one.dash is not None:
            parts.append(_line([(_EDGE - 4, y), (_EDGE + 20, y)], one))
        parts.append(mark(MARKERS[one.outline], one.style, (_EDGE + 8, y)))
        parts += _texts([one.words], "what", _EDGE + 26, y + 4)
        y += _LINE
    return parts, y - _LINE


def _panel(found: Sequence[Spot], inside: Box) -> Iterator[str]:
    """Yield axes, lines, marks and labels. A mark's title says its numbers."""
    shown = [loss for spot in found for loss in spot.losses if loss <= HIGHEST]
    y, y_ticks = linear_axis([*shown, HIGHEST], 0.08, inside.bottom, inside.top)
    x, x_ticks = linear_axis([spot.speed for spot in found], 0.1, inside.left, inside.right)
    yield frame(inside, [(at, f"{words}×") for at, words in x_ticks], y_ticks)
    points = {
        spot: (x(spot.speed), y(spot.loss) if spot.loss <= HIGHEST else inside.top + 8) for spot in found
    }
    lines = [
        [(points[spot][0], inside.top), (points[spot][0], inside.bottom)]
        for spot in found
        if spot.method == _RIVAL
    ]
    yield from (polyline(line, "dashed") for line in lines)
    for one in dict.fromkeys(SERIES[spot.method] for spot in found):
        own = sorted(points[spot] for spot in found if SERIES[spot.method] is one)
        if one.dash is not None and len(own) > 1:
            lines.append(own)
            yield _line(own, one)
    for spot in found:
        one = SERIES[spot.method]
        said = (
            f"{one.words}{', ' * bool(spot.label)}{spot.label}: perplexity {spot.loss:.2f}, {spot.speed:.2f}×"
        )
        yield mark(MARKERS[one.outline], one.style, points[spot], said)
    yield named(place_labels([(spot.label, at) for spot, at in points.items() if spot.label], inside, lines))


def _line(points: Sequence[Point], one: Series) -> str:
    colour = one.style.split()[0]
    return polyline(points, f"mark {colour}", style="fill:none", stroke_dasharray=one.dash or None)


if __name__ == "__main__":
    ROWS.with_suffix(".svg").write_text(draw([*json.loads(ROWS.read_text()).values()]), encoding="utf-8")
