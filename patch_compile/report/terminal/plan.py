"""Prints the plan of a model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from statistics import fmean

from rich.table import Table

from masklearn.masks.budget import Budget
from masklearn.masks.kinds.table import TWO_FOUR
from patch_compile.artifacts.plan import LinearRow, WholeRow
from patch_compile.artifacts.plan_of_model import Asked, Builder, Memory, PlanOfModel, TargetSource
from patch_compile.planning.speed_goal import SpeedGoal
from patch_compile.report.prediction import WHOLE_PHASES, gain_line, has_quantised, reason_lines, remarks
from patch_compile.report.terminal.console import by_kind
from patch_compile.report.terminal.folding import FoldingTable
from patch_compile.report.terminal.parts import Part
from patch_compile.report.terminal.weight_types import type_parts

__all__ = ["plan_parts"]

_TIMES = {"dense": "dense", "hybrid": "hybrid", "2:4": "sparse"}
_JOINED = (5, 6, 8, 9, 11)  # numbers that stay beside the one before: times of a phase, and megabytes
_TARGETS = {
    TargetSource.LOCAL_GPU: "target: {} (the GPU of this machine)",
    TargetSource.DEFAULT: "target: {} (no GPU here)",
}
_NO_MASKS = (
    "no masks are given, so each linear that gains is taken to have the ratio asked for it; learning chooses tiles over "
    "these together and spreads them unevenly (--mask FILE plans for real tile maps)"
)
_ASSUMED_TYPES = (
    "weight types are chosen here as if rounding cost what it cost SmolLM2-135M; learning chooses them by what it costs in "
    "each linear of this model"
)


def plan_parts(result: PlanOfModel) -> Iterator[Part]:
    """Yield the result of `plan`: linears by kind, reasons, the whole model, and the assumptions behind it."""
    yield f"predicted on {result.card}; {result.workload}"
    yield _linears_table(result.linears)
    tiles = (
        "tiles: share of slabs by kind" if _has_others(result.linears) else "p: share of weights in 2:4 tiles"
    )
    dense = "; dense: with 16-bit weights" * has_quantised(result.linears)
    yield f"µs: one linear on its own, for all prompts and for a decode step{dense}; {tiles}"
    if result.whole and result.memory.fits:
        yield _whole_table(result.whole)
    if result.card:
        yield _memory_line(result.memory, result.card.name)
    yield from type_parts(result)
    yield from _lines(result)


def _lines(result: PlanOfModel) -> Iterator[str]:
    yield f"ratio: {result.ratio:.4f} (asked: {_asked(result.asked)})"
    if line := gain_line(result.gaining, result.card):
        yield line
    yield from filter(None, [_other_line(result)])
    yield from reason_lines(result.linears)
    yield from (f"left dense: {row.name}: {row.reason}" for row in result.skipped)
    yield from (f"note: {note}" for note in (*_notes(result), *remarks(result.linears, result)))


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


def _has_others(linears: Sequence[LinearRow]) -> bool:
    return any(row.slabs.others for row in linears)


def _asked(asked: Asked) -> str:
    if asked.mask is not None:
        return f"masks of {asked.mask}"
    return (
        f"ratio {asked.ratio}" if asked.ratio is not None else str(SpeedGoal(asked.speedup, asked.budget_ms))
    )


def _notes(result: PlanOfModel) -> Iterator[str]:
    if result.target_source in _TARGETS:
        yield _TARGETS[result.target_source].format(result.target)
    yield from filter(None, [_builder_line(result.builder)])
    if result.asked.ratio is not None:
        budget = Budget.of(result.asked.ratio)
        yield from filter(None, [budget.left_dense([row.name for row in result.linears])])
    if result.asked.mask is None:
        yield _NO_MASKS
    if result.assumes_losses:
        yield _ASSUMED_TYPES


def _linears_table(linears: Sequence[LinearRow]) -> Table:
    """Returns one row per kind of linear, shape and lowering. Times are means of the row's linears."""
    table = FoldingTable(padding=0)
    table.add_column("\nlinear")
    share = "tiles" if _has_others(linears) else "p"
    headers = ["count", "shape", share, "lowering", *_TIMES, *_TIMES, "before", "after"]
    above = {4: "prefill", 5: "µs", 7: "decode", 8: "µs", 10: "MB"}
    for i, header in enumerate(headers):
        table.add_number(f"{above.get(i, '')}\n{header}", joined=i in _JOINED)
    for (kind, shape, lowering), rows in by_kind(linears).items():
        table.add_row(
            kind, str(len(rows)), shape, _share(rows), lowering, *_microseconds(rows), *_megabytes(rows)
        )
    table.add_section()
    table.add_row("all", str(len(linears)), "", _share(linears), "", *[""] * 6, *_megabytes(linears))
    return table


def _share(rows: Sequence[LinearRow]) -> str:
    if _has_others(rows):
        counts: Counter[str] = Counter()
        for row in rows:
            counts.update({TWO_FOUR.name: row.slabs.sparse, **row.slabs.others})
        total = sum(row.slabs.dense for row in rows) + counts.total()
        return " ".join(f"{kind} {count / total:.2f}" for kind, count in counts.items() if count)
    weights = sum(row.shape[0] * row.shape[1] for row in rows)
    return f"{2 * sum(row.zeroed for row in rows) / weights:.2f}"


def _microseconds(rows: Sequence[LinearRow]) -> Iterator[str]:
    predicted = [row.predicted for row in rows if row.predicted]
    for times in ([row.prefill for row in predicted], [row.decode for row in predicted]):
        for name in _TIMES.values():
            mean = fmean(getattr(one, name) for one in times)
            yield f"{mean:.0f}" if mean >= 1000 else f"{mean:.1f}"


def _megabytes(rows: Sequence[LinearRow]) -> Iterator[str]:
    yield f"{sum(row.bytes_before for row in rows) / 1e6:.1f}"
    yield f"{sum(row.bytes_after for row in rows) / 1e6:.1f}"


def _whole_table(whole: WholeRow) -> Table:
    """Returns the milliseconds of the workload, dense and planned, and the limit of their ratio."""
    table = FoldingTable()
    table.add_column("whole model, ms")
    for header in ("dense", "planned", "speed-up", "limit"):
        table.add_number(header)
    for phase, words in WHOLE_PHASES.items():
        row = getattr(whole, phase)
        table.add_row(
            words, f"{row.dense_ms:.1f}", f"{row.planned_ms:.1f}", f"{row.speedup:.2f}", f"{row.limit:.2f}"
        )
    return table


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
    alone = memory.dense_weights + memory.cache > memory.card
    dense = "; the dense model does not fit" if alone else ""
    return f"memory: {parts}, of {size} GB on {card}{dense}"


def _builder_line(builder: Builder | None) -> str:
    """Returns in words that this machine's backend can't build for the target, empty if it can."""
    if builder is None or builder.builds:
        return ""
    return (
        f"{builder.backend} {builder.version}, the backend of this machine, can't build an engine for {builder.target}: it "
        f"builds for {', '.join(builder.targets) or 'none of the known targets'}. Full TensorRT builds it on a machine "
        "with that GPU; --backend onnx stops at the ONNX file"
    )


def _gb(count: int) -> str:
    return f"{count / 1e9:.1f}" if count % 10**9 else f"{count // 10**9}"
