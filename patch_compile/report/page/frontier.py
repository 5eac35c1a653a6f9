"""Charts quality against size: the build, the dense model, and the baselines that were measured."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from masklearn import Baseline, BaselineRow
from masklearn.masks.kinds.base import BYTES_DENSE
from patch_compile.planning.roofline.linear_roofline import speedup_limit
from patch_compile.report.page.chart import BOTTOM, LEFT, RIGHT, TOP, linear_axis, loss_axis
from patch_compile.report.page.labels import REACH, Box, Point, place_labels
from patch_compile.report.page.number_format import bytes_of, number, perplexity
from patch_compile.report.page.page_data import Sources
from patch_compile.report.pareto import Spot, beaten_by
from patch_compile.report.weight_types import learned_types, types_words

__all__ = ["frontier"]

_WIDTH, _HEIGHT = 480, 300  # narrower than other charts, so that a phone shows it whole
_THIS, _DENSE = "this build", "dense"


@dataclass(frozen=True)
class _Spot:
    """A model in the chart. size: bytes of its covered weights; loss: perplexity, or relative error of an output;
    quantised: True if its weights have types as those of the build, which are not 16-bit ones alone."""

    name: str
    kind: Literal["dense", "build", "baseline"]
    size: float
    loss: float
    quantised: bool = False


def frontier(sources: Sources) -> dict[str, Any] | None:
    """Returns marks, labels, lines and axes in pixels for the template, or None if a loss is not finite."""
    typed = bool(sources.masks.grids)
    spots = [replace(spot, quantised=typed and spot.kind != "dense") for spot in _spots(sources)]
    if not all(math.isfinite(spot.loss) for spot in spots[:2]):
        return None
    spots = [spot for spot in spots if math.isfinite(spot.loss)]
    beaten = beaten_by([Spot(spot.name, -spot.size, spot.loss) for spot in spots])
    y, y_ticks = loss_axis([spot.loss for spot in spots], _HEIGHT - BOTTOM, 2 * TOP)
    x, x_ticks = linear_axis([spot.size / 1e6 for spot in spots], 0.14, _WIDTH - RIGHT, LEFT)
    points: dict[str, Point] = {spot.name: (x(spot.size / 1e6), y(spot.loss)) for spot in spots}
    line = sorted(points[name] for name, better in beaten.items() if better is None)
    inside = Box(LEFT, TOP, _WIDTH - RIGHT, _HEIGHT - BOTTOM)
    perplexities = sources.perplexity is not None
    spelled = perplexity if perplexities else number
    return {
        "size": (_WIDTH, _HEIGHT),
        "left": LEFT,
        "right": _WIDTH - RIGHT,
        "base": _HEIGHT - BOTTOM,
        "x_ticks": x_ticks,
        "y_ticks": y_ticks,
        "line": line,
        "top": TOP - 4,
        "what": "perplexity" if perplexities else "relative error of an output",
        "marks": [_mark(spot, points[spot.name], beaten[spot.name], spelled(spot.loss)) for spot in spots],
        "labels": place_labels([(spot.name, points[spot.name]) for spot in spots], inside, [line]),
        "reach": REACH,
        "summary": _summary(spots, beaten),
        "types": types_words(learned_types(sources.masks)),
        "estimated": any(spot.kind == "baseline" for spot in spots),
    }


def _spots(sources: Sources) -> Iterator[_Spot]:
    """Yield the dense model, the build, and the baselines that a kernel runs, all evaluated alike."""
    totals, found = sources.plan.totals, sources.baselines
    before, after = totals.bytes_before, totals.bytes_after
    if found is not None:
        dense = next((row for row in found.rows if row.name == Baseline.DENSE), None)
        if dense is not None:
            yield _Spot(_DENSE, "dense", before, dense.perplexity)
            yield _Spot(_THIS, "build", after, found.result.perplexity)
            yield from (_baseline(row, before) for row in _deployable(found.rows[1:]))
            return
    if (built := sources.perplexity) is not None:
        yield _Spot(_DENSE, "dense", before, built.dense)
        yield _Spot(_THIS, "build", after, built.pruned)
        return
    assert sources.outputs is not None  # a model has perplexities or outputs
    worst = sources.outputs[0].worst.relative
    yield _Spot(_DENSE, "dense", before, 0.0)
    yield _Spot(_THIS, "build", after, math.inf if worst is None else worst)


def _deployable(rows: Sequence[BaselineRow]) -> Iterator[BaselineRow]:
    return (row for row in rows if row.deployable and row.name != Baseline.DENSE)


def _baseline(row: BaselineRow, before: int) -> _Spot:
    """Returns the spot of a baseline that was not packed: its bytes follow from its tiles, 2:4 ones if it names no bytes."""
    taken = row.bytes_per_weight or BYTES_DENSE / speedup_limit(2 * row.ratio, "bytes")
    return _Spot(row.name, "baseline", before * taken / BYTES_DENSE, row.perplexity)


def _mark(spot: _Spot, point: Point, better: str | None, loss: str) -> dict[str, Any]:
    words = f"{spot.name}: {loss}, {bytes_of(spot.size)}" + (f", beaten by {better}" if better else "")
    return {
        "name": spot.name,
        "x": point[0],
        "y": point[1],
        "kind": spot.kind,
        "quantised": spot.quantised,
        "beaten": better is not None,
        "words": words,
    }


def _summary(spots: Sequence[_Spot], beaten: dict[str, str | None]) -> str:
    better = beaten[_THIS]
    others = len(spots) - 2
    if better:
        which = "dense model" if better == _DENSE else f"baseline {better}"
        return f"The {which} is no larger than this build and loses less."
    if others:
        return "No baseline that was measured is as small as this build and loses less."
    return "No other way of pruning was measured beside this build and the dense model."
