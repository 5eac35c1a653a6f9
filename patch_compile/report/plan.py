"""Sections of the plan of a model: linears, times of the whole model, memory, and other types of weights."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from itertools import groupby

from masklearn.masks.budget import Budget
from patch_compile.artifacts.plan import LinearRow
from patch_compile.artifacts.plan_of_model import (
    Asked,
    Builder,
    Memory,
    OtherTypes,
    PlanOfModel,
    RegimePoint,
    TargetSource,
)
from patch_compile.artifacts.prediction import PhaseRow, WholeRow
from patch_compile.planning.speed_goal import SpeedGoal
from patch_compile.report.linears import has_other_kinds, linears_table, skipped_lines
from patch_compile.report.number_format import milliseconds, times
from patch_compile.report.prediction import gain_line, has_quantised, predicted_times, reason_lines, remarks
from patch_compile.report.section import Column, Section, Table

# Rows of a table of the whole model: fields of `WholeRow`, and what they are called.
_PHASES = {"prefill": "prefill", "decode": "decode, all steps", "end_to_end": "end to end"}
_TARGETS = {
    TargetSource.LOCAL_GPU: "target: {} (the GPU of this machine)",
    TargetSource.DEFAULT: "target: {} (no GPU here)",
}
_BARS = "▁▂▃▄▅▆▇█"
_PAYS = 1.05  # speed-up from which pruning is worth its loss of quality
_NO_MASKS = (
    "no masks are given, so each linear that gains is taken to have the ratio asked for it; learning chooses tiles over "
    "these together and spreads them unevenly (--mask FILE plans for real tile maps)"
)
_ASSUMED_TYPES = (
    "weight types are chosen here as if rounding cost what it cost SmolLM2-135M; learning chooses them by what it costs in "
    "each linear of this model"
)
_TYPES = (
    "The same request with other types of weights (* is this plan): speed-up over dense 16-bit weights (dense) and over "
    "dense weights of the same type (same), and the limit of the first; decode: all steps; in all: prompts and steps"
)


def planned(result: PlanOfModel) -> Iterator[Section]:
    fits = result.memory.fits
    yield Section(
        f"predicted on {result.card}; {result.workload}",
        tables=[linears_table(result.linears, timed=True)],
        lines=[_legend(result.linears)],
    )
    yield Section(
        tables=[whole_table(result.whole)] if result.whole and fits else [],
        lines=[_memory_line(result.memory, result.card.name)] if result.card else [],
    )
    if result.regime and fits:
        yield Section(lines=list(regime_lines(result.regime)))
    yield _types(result)
    yield Section(lines=list(filter(None, _lines(result))))


def whole_table(whole: WholeRow, phases: Collection[str] = tuple(_PHASES), caption: str = "") -> Table:
    """Returns the times of the workload, dense and planned, and the limit of their ratio."""
    rows = []
    for phase in phases:
        row: PhaseRow = getattr(whole, phase)
        spelled = (
            predicted_times(row),
            times(row.limit),
            milliseconds(row.dense_ms),
            milliseconds(row.planned_ms),
        )
        rows.append([_PHASES[phase], *spelled])
    headings: list[Column | str] = ["speed-up", "limit", "dense, ms", "planned, ms"]
    return Table([Column("whole model", words=True), *headings], rows, caption)


def regime_lines(points: Sequence[RegimePoint]) -> Iterator[str]:
    """Yield the predicted speed-up over the tokens of a prompt, as a picture, and where it pays."""
    speeds = [point.speedup for point in points]
    low, high = min(speeds), max(speeds)
    top = len(_BARS) - 1
    picture = "".join(
        _BARS[round((speed - low) / (high - low) * top) if high > low else top] for speed in speeds
    )
    first, last = points[0].tokens, points[-1].tokens
    yield f"a prompt of {first} to {last} tokens: {picture}  predicted {times(low)} to {times(high)}"
    runs = [list(run) for pays, run in groupby(points, lambda point: point.speedup >= _PAYS) if pays]
    where = " and ".join(
        f"{run[0].tokens} to {run[-1].tokens}" if len(run) > 1 else str(run[0].tokens) for run in runs
    )
    yield f"pruning gains {_PAYS - 1:.0%} or more with {where or 'no number of'} tokens"


def _legend(linears: Sequence[LinearRow]) -> str:
    tiles = (
        "tiles: share of slabs by kind" if has_other_kinds(linears) else "p: share of weights in 2:4 tiles"
    )
    dense = "; dense: with 16-bit weights" * has_quantised(linears)
    return f"µs: one linear on its own, for all prompts and for a decode step{dense}; {tiles}"


def _lines(result: PlanOfModel) -> Iterator[str]:
    yield f"ratio: {result.ratio:.4f} (asked: {_asked(result.asked)})"
    yield gain_line(result.gaining, result.card)
    yield _other_line(result)
    yield from reason_lines(result.linears)
    yield from skipped_lines(result.skipped)
    if result.target_source in _TARGETS:
        yield _TARGETS[result.target_source].format(result.target)
    yield _builder_line(result.builder)
    if result.asked.ratio is not None:
        yield Budget.of(result.asked.ratio).left_dense([row.name for row in result.linears])
    if result.asked.mask is None:
        yield _NO_MASKS
    if result.assumes_losses:
        yield _ASSUMED_TYPES
    yield from remarks(result.linears, result)


def _other_line(result: PlanOfModel) -> str:
    """Returns the sentence on what other kinds of tiles would give; empty if nothing is known of it."""
    other, whole = result.other, result.whole
    if other is None or whole is None or not result.memory.fits:
        return ""
    found = (
        f"with --kinds {other.kinds}: {other.speedup:.2f} times as fast as dense instead of "
        f"{whole.end_to_end.speedup:.2f}, linears of {other.bytes_after / 1e9:.2f} GB instead of "
        f"{result.totals.bytes_after / 1e9:.2f}"
    )
    same = round(other.ratio, 3) == round(result.ratio, 3)
    return found if same else f"{found}, ratio {other.ratio:.4f}"


def _asked(asked: Asked) -> str:
    if asked.mask is not None:
        return f"masks of {asked.mask}"
    return (
        f"ratio {asked.ratio}" if asked.ratio is not None else str(SpeedGoal(asked.speedup, asked.budget_ms))
    )


def _memory_line(memory: Memory, card: str) -> str:
    """Returns in words what of the card's memory the model takes, and how many cards would hold it if one does not."""
    parts = (
        f"weights {_gb(memory.weights)} GB (dense {_gb(memory.dense_weights)}) and KV cache {_gb(memory.cache)} GB of this "
        f"workload"
    )
    size = _gb(memory.card)
    if not memory.fits:
        return (
            f"does not fit: {parts} are more than the {size} GB of one {card}. {memory.cards} such cards would hold it, but "
            "a build runs on one: no speed is promised. Plan for a larger card, or for a smaller workload"
        )
    too_large = memory.dense_weights + memory.cache > memory.card
    return f"memory: {parts}, of {size} GB on {card}{'; the dense model does not fit' * too_large}"


def _gb(count: int) -> str:
    return f"{count / 1e9:.1f}" if count % 10**9 else f"{count // 10**9}"


def _builder_line(builder: Builder | None) -> str:
    """Returns in words that this machine's backend can't build for the target, empty if it can."""
    if builder is None or builder.builds:
        return ""
    return (
        f"{builder.backend} {builder.version}, the backend of this machine, can't build an engine for {builder.target}: it "
        f"builds for {', '.join(builder.targets) or 'none of the known targets'}. Full TensorRT builds it on a machine "
        "with that GPU; --backend onnx stops at the ONNX file"
    )


def _types(result: PlanOfModel) -> Section:
    """Returns a row for each type of weights. Types that do not fit are named below."""
    shown = [row for row in result.types if row.whole is not None]
    if len(shown) < 2 or not any(_fits(row, result) for row in shown):
        return Section()
    ratios = len({f"{row.ratio:.3f}" for row in shown}) > 1
    names, phases = ("dense", "same", "limit"), ("decode", "in all")
    headings: list[Column | str] = [
        Column("weights", words=True), "ratio", Column("linears", "GB"), Column("model", "GB"), Column("prefill", "ms"),
        Column("decode", "ms"), *(Column(name, over) for over in phases for name in names),
    ]  # fmt: skip
    rows = [
        [row.weights + " *" * row.planned, f"{row.ratio:.3f}" * ratios, *_figures(row, result)]
        for row in shown
    ]
    return Section(tables=[Table(headings, rows, _TYPES).without_empty()], lines=list(_left_out(result)))


def _figures(row: OtherTypes, result: PlanOfModel) -> Iterator[str]:
    assert row.whole is not None
    yield from (f"{size / 1e9:.2f}" for size in (row.linears_bytes, row.model_bytes))
    if not _fits(row, result):
        yield from ("–",) * 8
        return
    yield from (f"{phase.planned_ms:.1f}" for phase in (row.whole.prefill, row.whole.decode))
    for one in (row.whole.decode, row.whole.end_to_end):
        yield from (f"{value:.2f}" for value in (one.speedup, one.over_alike, one.limit))


def _fits(row: OtherTypes, result: PlanOfModel) -> bool:
    return row.model_bytes + result.memory.cache <= result.memory.card


def _left_out(result: PlanOfModel) -> Iterator[str]:
    goal = SpeedGoal(result.asked.speedup, result.asked.budget_ms)
    for row in result.types:
        if row.unfit is not None:
            yield f"weights of {row.weights} are left out: K of {row.unfit} is no multiple of what shares a scale"
        elif row.whole is None:
            yield f"weights of {row.weights} are left out: with them {goal} is out of reach"
        elif not _fits(row, result):
            yield f"with weights of {row.weights} the model does not fit on {result.card and result.card.name}"
