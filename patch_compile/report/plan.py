"""Sections of the plan of a model: linears, times of the whole model, memory, and other types of weights."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import groupby

from masklearn.choice.goal import Goal
from masklearn.choice.menu import listed
from masklearn.masks.kinds.table import KINDS
from masklearn.quant.table import weight_type
from patch_compile.artifacts.plan import LinearRow
from patch_compile.artifacts.plan_of_model import (
    Memory,
    OtherTypes,
    PlanOfModel,
    RegimePoint,
    TargetRow,
    TargetSource,
)
from patch_compile.artifacts.prediction import PAYS, PhaseRow, WholeRow
from patch_compile.hardware.cards import rated_cards
from patch_compile.planning.speed_goal import SpeedGoal
from patch_compile.report.linears import ONE_PASS, linears_table, share_legend, skipped_lines
from patch_compile.report.number_format import milliseconds, number, times
from patch_compile.report.prediction import (
    asked_words,
    dequantised_line,
    gain_line,
    has_quantised,
    little_gain_line,
    predicted_times,
    reason_lines,
    remarks,
    rivals_words,
    tried_line,
)
from patch_compile.report.section import Column, Columns, Section, Table, columns_of, table_of

_TARGETS = {
    TargetSource.LOCAL_GPU: "the GPU of this machine: predicted on {}",
    TargetSource.DEFAULT: "no GPU here: predicted on {}",
}
_BARS = "▁▂▃▄▅▆▇█"
_SMALL = 10**8  # bytes below which gigabytes with decimals say little
_ASSUMED_TYPES = "weight types: by the losses of SmolLM2-135M; a build measures this model's"
_TYPES = (
    "The same request with each type of weights (* is this plan): speed-up over dense 16-bit weights, over the same type "
    "without pruned tiles (tiles), and over dense weights of the same type by libraries (library); the limit of the first"
)
_MORE = "--table shows more"
_PREDICTED = "predicted, not measured (docs/explanation/predictions.md)"


def planned(result: PlanOfModel, *, every: bool = False) -> Iterator[Section]:
    """Yield the answer of a plan in at most 14 lines. every: with all tables, and a reason for every choice."""
    whole = result.whole if result.memory.fits else None
    yield Section(
        f"{_title(result)}; {result.workload}",
        tables=[replace(whole_table(whole, limits=every), tight=not every)] if whole else [],
        lines=list(filter(None, _answer(result, whole))),
    )
    if result.targets:
        yield Section(
            tables=[replace(targets_table(result), tight=not every)], lines=list(_unpredicted(result))
        )
    if not every:
        calibrated = result.card is not None and result.card.calibration is not None
        yield Section(lines=[_MORE if calibrated else f"{_PREDICTED}; {_MORE}"])
        return
    phases = result.whole.phases if result.whole else ("prefill", "decode")
    yield Section(lines=list(filter(None, _choices(result, whole))))
    legend = [_legend(result.linears, phases)]
    yield Section(tables=[linears_table(result.linears, phases)], lines=legend)
    yield Section(tables=_types(result))
    lines = (*reason_lines(result.linears), *skipped_lines(result.skipped), *remarks(result.linears, result))
    yield Section(lines=list(filter(None, lines)))


def _title(result: PlanOfModel) -> str:
    if result.target_source is TargetSource.ASKED or result.card is None:
        return f"predicted on {result.card}"
    return _TARGETS[result.target_source].format(result.card.name)


def whole_table(whole: WholeRow, caption: str = "", *, limits: bool = True) -> Table:
    """Returns the times of the workload's phases, dense and planned, what types and tiles bring, and the limit."""
    fields, phases = WholeRow.shown_fields(), whole.phases
    typed = any(getattr(whole, name).by_types != 1.0 for name in phases)
    columns: Columns = {
        Column("phase", words=True): lambda name: fields[name].title if len(phases) > 1 else ONE_PASS,
        "speed-up": lambda name: predicted_times(getattr(whole, name)),
        **columns_of(
            PhaseRow,
            *(("by_types", "by_tiles") if typed else ()),
            *(("limit",) if limits else ()),
            "dense_ms",
            "planned_ms",
            of=partial(getattr, whole),
        ),
    }
    return table_of(phases, columns, caption)


def targets_table(result: PlanOfModel) -> Table:
    """Returns a row for each of several targets, empty where nothing is predicted."""
    phases = result.whole.phases if result.whole else ("prefill", "decode", "end_to_end")
    fields = WholeRow.shown_fields()
    columns: Columns = {
        **columns_of(TargetRow, "target"),
        **{fields[name].title if len(phases) > 1 else ONE_PASS: partial(_speedup, name) for name in phases},
        **columns_of(TargetRow, "ratio"),
    }
    return table_of(result.targets, columns, "Speed-up of the same request on each target")


def _speedup(phase: str, row: TargetRow) -> str:
    return times(getattr(row.whole, phase).speedup) if row.whole else ""


def _unpredicted(result: PlanOfModel) -> Iterator[str]:
    goal = SpeedGoal(result.asked.speedup, result.asked.budget_ms)
    for row in result.targets:
        if row.card is None:
            yield f"{row.target}: no prediction, as no card of its architecture has a data sheet and rates of our kernels"
        elif row.whole is None:
            yield f"{row.target}: {f'{goal} is out of reach' if row.fits else 'the model does not fit'} on {row.card}"
        elif row.card.stands_for:
            yield f"{row.target}: predicted on {row.card}"


def _answer(result: PlanOfModel, whole: WholeRow | None) -> Iterator[str]:
    """Yield what decides if this plan is worth a build."""
    gains = result.choice.gains if result.choice else None
    if result.little_gain and whole:
        yield little_gain_line(result.little_gain)
    if gains and not gains.gaining:
        yield gain_line(gains)
    if whole:
        yield rivals_words(whole, result.linears)
    if result.by_split:
        yield (
            f"without a plugin (--lowering split): {times(result.by_split)}, if TensorRT chooses its 2:4 tactics for int8; "
            "one scale for all tokens loses more"
        )
    if result.regime and result.memory.fits:
        yield regime_line(result.regime)
    reached = f"{result.ratio:.4f}"
    if result.ratio and (result.asked.speedup or result.asked.budget_ms):
        reached = f"about {reached} or more"  # scores choose tiles that lose less, and save less for a zero
    yield f"ratio (share of weights set to zero): {reached}, asked: {asked_words(result.asked)}"
    if result.card:
        yield _memory_line(result.memory, result.card.name)
    others = [row for row in result.types if row.whole and not row.planned and _fits(row, result)]
    if others:
        speeds = (f"{row.weights} {times(row.whole.end_to_end.speedup)}" for row in others if row.whole)
        yield f"with other --weights: {', '.join(speeds)}"
    yield dequantised_line(result.dequantised)
    if result.assumes_losses:
        yield _ASSUMED_TYPES
    if result.asked.ratio is not None:
        yield Goal.of_ratio(result.asked.ratio).left_dense([row.name for row in result.linears])


def _choices(result: PlanOfModel, whole: WholeRow | None) -> Iterator[str]:
    """Yield what was chosen, with the reason, and the types that are left out."""
    if result.choice and result.choice.gains and result.choice.gains.gaining:
        yield gain_line(result.choice.gains)
    if result.tried:
        yield tried_line(result.tried, result.asked) if whole else f"kinds: {result.tried[0].value}"
    yield from _left_out(result)


def regime_line(points: Sequence[RegimePoint]) -> str:
    """Returns the predicted speed-up over the tokens of a prompt, as a picture, and where tiles pay."""
    speeds = [point.speedup for point in points]
    low, high = min(speeds), max(speeds)
    top = len(_BARS) - 1
    picture = "".join(
        _BARS[round((speed - low) / (high - low) * top) if high > low else top] for speed in speeds
    )
    first, last = points[0], points[-1]
    what = f"sequences of {last.tokens // last.sequences}" if last.sequences > 1 else "prefill"
    runs = [list(run) for pays, run in groupby(points, lambda point: point.by_tiles >= PAYS) if pays]
    where = " and ".join(
        f"{run[0].tokens}–{run[-1].tokens}" if len(run) > 1 else str(run[0].tokens) for run in runs
    )
    return (
        f"{what}, {first.tokens} token: {times(first.speedup)} {picture} {times(last.speedup)}, {last.tokens} tokens; "
        f"tiles pay: {where or 'never'}"
    )


def _legend(linears: Sequence[LinearRow], phases: Collection[str]) -> str:
    dense = "; dense: with 16-bit weights" * has_quantised(linears)
    whose = "for all prompts and for a decode step" if len(phases) > 1 else "for the whole batch"
    return f"µs: one linear on its own, {whose}{dense}; {share_legend(linears)}"


def _memory_line(memory: Memory, card: str) -> str:
    """Returns in words what of the card's memory the model takes, and how many cards would hold it if one does not."""
    parts = f"weights {_gb(memory.weights)} GB (dense {_gb(memory.dense_weights)})"
    if memory.cache:
        parts += f" and KV cache {_gb(memory.cache)} GB"
    size = _gb(memory.card)
    if not memory.fits:
        largest = max(one.memory for one in rated_cards())
        advice = (
            "Plan for a larger card, or for a smaller workload"
            if memory.weights <= largest * 10**9
            else f"No card of the table has more than {largest} GB: use a smaller model"
        )
        return (
            f"does not fit: {parts} are more than the {size} GB of one {card}. {memory.cards} such cards would hold it, but "
            f"a build runs on one: no speed is promised. {advice}"
        )
    too_large = memory.dense_weights + memory.cache > memory.card
    return f"memory: {parts}, of {size} GB on {card}{'; the dense model does not fit' * too_large}"


def _gb(count: int) -> str:
    if 0 < count < _SMALL:
        return number(count / 1e9, 2)
    return f"{count / 1e9:.1f}" if count % 10**9 else f"{count // 10**9}"


def _types(result: PlanOfModel) -> list[Table]:
    """Returns a table with a row for each type of weights, or no table if there is nothing to compare."""
    rows = [row for row in result.types if row.whole is not None]
    if len(rows) < 2 or not any(_fits(row, result) for row in rows):
        return []
    ratios = ("ratio",) * (len({f"{row.ratio:.3f}" for row in rows}) > 1)
    columns: Columns = {
        Column("weights", words=True): lambda row: row.weights + " *" * row.planned,
        **columns_of(OtherTypes, *ratios, "linears_bytes", "model_bytes"),
    }
    if result.whole and len(result.whole.phases) == 1:
        return [table_of(rows, {**columns, **_figures("prefill", ONE_PASS, result)}, _TYPES)]
    for phase, over in (("prefill", ""), ("decode", "decode"), ("end_to_end", "in all")):
        columns = {**columns, **_figures(phase, over, result)}
    return [table_of(rows, columns, f"{_TYPES}; decode: all steps; in all: prompts and steps")]


def _figures(phase: str, over: str, result: PlanOfModel) -> Columns:
    """Returns the columns of a phase, empty for types with which the model does not fit. over: "" for only its time."""

    def spell(find: Callable[[PhaseRow], str]) -> Callable[[OtherTypes], str]:
        return lambda row: find(getattr(row.whole, phase)) if _fits(row, result) else ""

    time = Column("ms" if over else f"{phase}, ms", over)
    ratios: Columns = {
        Column("speed-up", over): spell(lambda row: times(row.speedup)),
        Column("tiles", over): spell(lambda row: times(row.by_tiles)),
        Column("library", over): spell(lambda row: times(row.over_library)),
        Column("limit", over): spell(lambda row: times(row.limit)),
    }
    return {time: spell(lambda row: milliseconds(row.planned_ms)), **(ratios if over else {})}


def _fits(row: OtherTypes, result: PlanOfModel) -> bool:
    return row.model_bytes + result.memory.cache <= result.memory.card


def _left_out(result: PlanOfModel) -> Iterator[str]:
    goal = SpeedGoal(result.asked.speedup, result.asked.budget_ms)
    for row in result.types:
        if row.unfit is not None:
            yield f"weights of {row.weights} are left out: K of {row.unfit} is no multiple of what shares a scale"
        elif row.wrong_kinds:
            theirs = listed([kind for kind in KINDS if kind.goes_with(weight_type(row.weights))], "or")
            yield f"weights of {row.weights} are left out: their tiles are {theirs}, and others are asked for"
        elif row.whole is None:
            yield f"weights of {row.weights} are left out: with them {goal} is out of reach"
        elif not _fits(row, result):
            yield f"with weights of {row.weights} the model does not fit on {result.card and result.card.name}"
