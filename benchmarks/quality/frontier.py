"""Draws perplexity against the bytes of a packed weight, and against the times of a prompt and of a decode step, for
docs/explanation/quality.md.

    python -m benchmarks.quality.frontier [docs/explanation/quality.json] [--check]

It takes the rows that `benchmarks.quality.run` measured, of the protocol that most rows have, and writes the picture next to
them; `--check` only says if the picture shows the rows. The page's command draws it too.

A row lies where its bytes put it: the bytes of its own masks, or of 2:4 tiles at its ratio for rows that were measured when
there was no other kind. Times are the planner's predictions for a large model with the same shares of kinds, because the
measured model is too small to gain.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks.kernels.roofline import MODELS
from masklearn.masks.kinds.base import BYTES_DENSE
from masklearn.masks.kinds.table import DENSE, PRUNED, TWO_FOUR
from masklearn.masks.tiles import grid_shape
from masklearn.quant.table import FLOAT16, WEIGHT_TYPES, WeightType
from patch_compile.artifacts.prediction import Workload
from patch_compile.hardware.cards import RatedCard, card_named
from patch_compile.planning.cards import PlanCard
from patch_compile.planning.cost import CostModel
from patch_compile.planning.lowering import plan_linear
from patch_compile.planning.outline import outline_of_llama
from patch_compile.planning.planner import settle_together
from patch_compile.planning.predict import predict_whole
from patch_compile.planning.tile_map import TileKinds
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
    loss_axis,
    mark,
    named,
    place_labels,
    polyline,
    tag,
    text_width,
)

Row = Mapping[str, Any]

_CARD, _MODEL, _TILE = "A6000", "LLaMA-2-7B", (128, 128)
_WORK = Workload(batch=1, prompt=2048, generated=128)
_DENSE = {DENSE.name: 1.0}

DROPPED = "dropped blocks"
# Rows by their method: the name in the legend, outline, number of the colour, and the line between a series' points.
SERIES = {
    "dense": ("dense", "cross", 6, ""),
    # Not rounded to nearest: nobody would use int4 so, as GPTQ loses far less, and int8 loses as much by GPTQ.
    "dense, int8": ("dense int8 and int4, by GPTQ", "lozenge", 6, "6 3"),
    "dense, int4": ("dense int8 and int4, by GPTQ", "lozenge", 6, "6 3"),
    "dense, w8a8": ("dense W8A8", "hexagon", 6, ""),
    DROPPED: ("blocks dropped", "bar", 3, "1 3"),
    "sparsegpt 2:4": ("2:4 everywhere, SparseGPT", "triangle", 3, ""),
    "ffn-only 2:4": ("2:4 in the feed-forward part, SparseGPT", "pointing down", 3, ""),
    "oneshot, no repair": ("dense and 2:4 tiles", "circle", 1, ""),
    "oneshot + 30 min of repair": ("dense and 2:4 tiles, half an hour of repair", "square", 1, "6 3"),
    "sparsegpt 8:16": ("n:16 everywhere, SparseGPT", "diamond", 4, "1 3"),
    "sparsegpt 12:16": ("n:16 everywhere, SparseGPT", "diamond", 4, "1 3"),
    "oneshot, no repair, w8a8": ("dense and 2:4 tiles in W8A8", "half", 2, "1 3"),
    "oneshot + 13 steps of repair, w8a8": ("dense and 2:4 tiles in W8A8, repaired", "wedge", 5, "1 3"),
    "oneshot + 13 steps of repair, kinds 6:8, w8a8": ("6:8 tiles in W8A8, repaired", "house", 5, ""),
    "oneshot, no repair, kinds auto": ("tiles of all kinds (auto)", "star", 2, "2 3"),
    "oneshot, 8 min in all, kinds auto": (
        "tiles of all kinds, repair, 8 minutes in all",
        "bow tie",
        5,
        "6 3",
    ),
}
_LABELLED = "oneshot, no repair"
_OUTLINES = MARKERS | {
    "bow tie": "M-5.6 -6L5.6 6V-6L-5.6 6Z",
    "lozenge": "M0 -8L4.6 0L0 8L-4.6 0Z",
    "hexagon": "M-6.6 0L-3.3 -5.7H3.3L6.6 0L3.3 5.7H-3.3Z",
    "bar": "M-7 -2.6H7V2.6H-7Z",
    "half": "M-7 3.4a7 7 0 0 1 14 0Z",
    "house": "M-5.6 6V-2L0 -7L5.6 -2V6Z",
    "wedge": "M-6.2 -6.2L6.2 6.2H-6.2Z",
}
_TAKEN = "bytes of a packed weight, on average: fewer to the right"
_TIMED = f"\n{_MODEL} with as many tiles of each kind, {_CARD}, batch {_WORK.batch}: less to the right"
_PROMPT = f"predicted ms of a prompt of {_WORK.prompt} tokens{_TIMED}"
_STEP = f"predicted ms of a decode step after it{_TIMED}"
_WIDTH, _PANEL, _EDGE, _LINE = 720, 280, 20, 18  # pixels; _PANEL: height of a pair of axes
HIGHEST = 120.0  # perplexity that is still drawn: with higher ones, the other rows would lie on each other


@dataclass(frozen=True)
class Spot:
    """The rows of one method at one ratio, of all seeds. prompt, step: predicted milliseconds."""

    method: str
    label: str
    taken: float
    prompt: float
    step: float
    losses: tuple[float, ...]

    @property
    def loss(self) -> float:
        """Median perplexity."""
        return median(self.losses)


def kinds_of(row: Row) -> frozenset[str]:
    """Returns the names of the kinds of tiles that a row has. Rows without a record of them have dense and 2:4 tiles."""
    return frozenset(row.get("kinds") or (DENSE.name, TWO_FOUR.name))


def type_of(row: Row) -> WeightType:
    """Returns the type of a row's weights, which its method names."""
    named = [one for name, one in WEIGHT_TYPES.items() if name in str(row["method"]).split(", ")]
    return named[0] if named else FLOAT16


def bytes_of(row: Row) -> float:
    """Returns the bytes of a packed weight in its own type, on average."""
    if (taken := row.get("packed_bytes_per_weight", row.get("bytes_per_weight"))) is not None:
        return float(taken)
    saved = (BYTES_DENSE - TWO_FOUR.bytes_per_weight) / TWO_FOUR.zeros
    return float(BYTES_DENSE - saved * row["reached"])


def spots(rows: Sequence[Row]) -> list[Spot]:
    """Returns the spots of the picture, in the order of the legend: rows of its methods, at the tile size that most have."""
    shown = [row for row in rows if row.get("method") in SERIES and row["perplexity"] <= HIGHEST]
    tile = Counter(row["tile"] for row in shown).most_common(1)[0][0] if shown else ""
    found: dict[tuple[str, Any], list[Row]] = {}
    for row in shown:
        if row["tile"] == tile:
            found.setdefault((row["method"], row["ratio"]), []).append(row)
    made = [_spot(method, alike) for (method, _), alike in found.items()]
    return sorted(made, key=lambda spot: (list(SERIES).index(spot.method), spot.taken))


def _spot(method: str, rows: Sequence[Row]) -> Spot:
    first = rows[0]
    usual = kinds_of(first) <= {DENSE.name, TWO_FOUR.name}
    # Rows of one ratio lie above each other, so a single series names the ratios of all.
    label = f"ratio {first['ratio']:.2f}" if method == _LABELLED else ""
    if first["ratio"] is None and not usual:
        label = ",".join(sorted(kinds_of(first)))
    if method.startswith("dense, "):
        label = type_of(first).name
    losses = tuple(sorted(row["perplexity"] for row in rows))
    return Spot(method, label, bytes_of(first), *_times_of(first), losses)


def _times_of(row: Row) -> tuple[float, float]:
    """Returns the milliseconds of the prompt and of a step if all linears have a row's kinds of tiles and type.

    A dense row has the time of other programs' dense products, if the planner knows them. Dropped blocks take no time.
    """
    layers, two_four = MODELS[_MODEL].layers, row["reached"] / TWO_FOUR.zeros
    shares = row.get("kinds") or {DENSE.name: 1 - two_four, TWO_FOUR.name: two_four}
    if row["method"] == DROPPED:
        shares, layers = _DENSE, round(layers * (1 - row["reached"]))
    return _times(
        tuple(sorted((kind, share) for kind, share in shares.items() if share)), type_of(row), layers
    )


@cache
def _times(shares: tuple[tuple[str, float], ...], weights: WeightType, layers: int) -> tuple[float, float]:
    """shares: of the weights by kind; all dense: the dense model that others compute."""
    card = card_named(_CARD)
    assert isinstance(card, RatedCard)
    linears, outline = outline_of_llama(replace(MODELS[_MODEL], layers=layers))
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
    whole = predict_whole(settle_together(plans, "plugin", outline, costs).values(), outline, costs)
    phases = whole.prefill, whole.decode
    dense = shares == tuple(_DENSE.items())
    prompt, steps = (phase.library_ms if dense else phase.planned_ms for phase in phases)
    return prompt, steps / (_WORK.generated - 1)


def draw(rows: Sequence[Row]) -> str:
    """Returns the picture as SVG. Equal rows give equal text. Raises ValueError if no row has a method that the picture
    shows."""
    found = spots(rows)
    if not found:
        raise ValueError(f"no row is of a method that is drawn: {', '.join(SERIES)}")
    from markupsafe import Markup

    parts, height = _legend(found)
    losses = [loss for spot in found for loss in spot.losses]
    left, right = _EDGE + 34, _WIDTH - _EDGE
    taken = [(spot, spot.taken) for spot in found]
    prompts, steps = [(spot, spot.prompt) for spot in found], [(spot, spot.step) for spot in found]
    for values, words in ((taken, _TAKEN), (prompts, _PROMPT), (steps, _STEP)):
        inside = Box(left, height + 2 * _LINE, right, height + 2 * _LINE + _PANEL)
        y, y_ticks = loss_axis(losses, inside.bottom, inside.top)
        x, x_ticks = linear_axis([value for _, value in values], 0.07, inside.right, inside.left)
        parts += [frame(inside, x_ticks, y_ticks), *_texts(said_of(rows[0]), "what", _EDGE, inside.top - 8)]
        parts += _texts(words, "label what", (left + right) / 2, inside.bottom + 2 * _LINE)
        parts += _panel(values, x, y, inside)
        height = inside.bottom + (2.6 + words.count("\n")) * _LINE
    what = (
        "Perplexity against bytes of a weight, and against predicted times of a prompt and of a decode step"
    )
    style, paper = (
        Markup(themed(asset("chart.css"))),
        tag("rect", class_="paper", width="100%", height="100%"),
    )
    size = {"width": _WIDTH, "height": round(height), "viewBox": f"0 0 {_WIDTH} {height:.0f}"}
    about = (tag("title", what, id="what"), tag("style", style), paper)
    named_by = {"xmlns": "http://www.w3.org/2000/svg", "role": "img", "aria_labelledby": "what"}
    return tag("svg", *about, *parts, class_="chart", **size, **named_by)


def said_of(row: Row) -> str:
    """Returns the name of the vertical axis: the measured quantity and the text."""
    under = row["under"]
    on = f"{under['eval']}, first {under['eval_windows']} windows × {under['eval_length']} tokens"
    return f"perplexity of {under['model']} on {on} (lower is better)"


def _texts(words: str, class_: str, x: float, y: float) -> Iterator[str]:
    for i, line in enumerate(words.split("\n")):
        yield tag("text", line, class_=class_, x=x, y=round(y + i * 16, 1))


def _legend(found: Sequence[Spot]) -> tuple[list[str], float]:
    """Returns the legend, and the pixel below it."""
    there = Counter(SERIES[spot.method] for spot in found)
    x, y, parts = float(_EDGE), float(_EDGE), []
    for (words, outline, colour, dash), count in there.items():
        width = 3 * REACH + text_width(words, SIZE)
        if x > _EDGE and x + width > _WIDTH - _EDGE:
            x, y = float(_EDGE), y + _LINE
        if count > 1:
            parts.append(_line([(x - 2, y), (x + 18, y)], colour, dash))
        parts.append(mark(_OUTLINES[outline], f"c{colour}", (x + 8, y)))
        parts += _texts(words, "what", round(x + 22, 1), y + 4)
        x += width + _LINE
    return parts, y


def _panel(values: Sequence[tuple[Spot, float]], x: Scale, y: Scale, inside: Box) -> Iterator[str]:
    """Yield lines, ranges of seeds, marks and labels. A mark's title says its numbers."""
    lines, labels = [], []
    for series in dict.fromkeys(SERIES[spot.method] for spot, _ in values):
        _, _, colour, dash = series
        own = sorted((x(value), y(spot.loss)) for spot, value in values if SERIES[spot.method] == series)
        if len(own) > 1:
            lines.append(own)
            yield _line(own, colour, dash)
    for spot, value in values:
        words, outline, colour, _ = SERIES[spot.method]
        point = x(value), y(spot.loss)
        if len(spot.losses) > 1:
            yield _range(point[0], y(spot.losses[0]), y(spot.losses[-1]), colour)
        said = f"{words}{', ' * bool(spot.label)}{spot.label}: perplexity {spot.loss:.2f}, {value:.4g}"
        yield mark(_OUTLINES[outline], f"c{colour}", point, said)
        labels.append((spot.label, point))
    yield named(place_labels([one for one in labels if one[0]], inside, lines))


def _range(x: float, low: float, high: float, colour: int) -> str:
    """A thin line with ends, much thinner than a mark."""
    path = f"M{x} {low}V{high}" + "".join(f"M{x - 4:.1f} {y}h8" for y in (low, high))
    return tag("path", class_=f"mark c{colour}", style="fill:none;stroke-width:1", d=path)


def _line(points: Sequence[Point], colour: int, dash: str) -> str:
    return polyline(points, f"mark c{colour}", style="fill:none", stroke_dasharray=dash or None)


def of_one_protocol(rows: Sequence[Row]) -> list[Row]:
    """Returns our own rows of the protocol that most of them have."""
    ours = [row for row in rows if "under" in row]
    counts = Counter(json.dumps(row["under"], sort_keys=True) for row in ours)
    most = counts.most_common(1)[0][0] if counts else ""
    return [row for row in ours if json.dumps(row["under"], sort_keys=True) == most]


def main(argv: Sequence[str] | None = None) -> int:
    """Write or check the picture. Returns the exit code: 1 if the existing picture differs."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.quality.frontier", description=__doc__)
    parser.add_argument("state", type=Path, nargs="?", default=Path("docs/explanation/quality.json"))
    parser.add_argument(
        "--check",
        action="store_true",
        help="write nothing; exit with 1 if the picture does not show the rows",
    )
    asked = parser.parse_args(argv)
    rows = json.loads(asked.state.read_text(encoding="utf-8"))
    drawn, picture = draw(of_one_protocol(list(rows.values()))), asked.state.with_suffix(".svg")
    if not asked.check:
        picture.write_text(drawn, encoding="utf-8")
        return 0
    if picture.is_file() and picture.read_text(encoding="utf-8") == drawn:
        return 0
    print(
        f"{picture} is not the picture of {asked.state}: python -m benchmarks.quality.frontier",
        file=sys.stderr,
    )
    return 1


if __name__ == "__main__":
    sys.exit(main())
