"""Sections of the times that `bench` measured, and of reasons to doubt them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from patch_compile.artifacts.bench import (
    BenchReport,
    BenchRow,
    ClockRanges,
    Clocks,
    Contender,
    Phase,
    SlowedBy,
)
from patch_compile.artifacts.layout import BENCH
from patch_compile.artifacts.record import Unit
from patch_compile.report.number_format import bytes_of, milliseconds, percent, spelled, times
from patch_compile.report.prediction import calibration_words
from patch_compile.report.section import Column, Columns, Section, Table, columns_of, facts, table_of

# Phases of predicted and of measured times, within a sentence about a speed.
IN_PHASE: dict[str, str] = {
    "end_to_end": "end to end",
    Phase.PREFILL: "in prefill",
    Phase.DECODE: "in decode",
    Phase.WHOLE: "for a whole run",
}
_UNIFORM = (
    f"{Contender.UNIFORM}: every tile of every covered linear, by magnitude, compiled as the hybrid model was; which "
    "weights are kept makes no difference to time"
)
_GAIN = "speed-up"
_LOCKS = {"sm_mhz": "--lock-gpu-clocks", "memory_mhz": "--lock-memory-clocks"}
_STEADY = 0.03  # share of the median clock; a larger movement shows in the times
_SLOWED = {
    SlowedBy.POWER_LIMIT: "its power limit",
    SlowedBy.HARDWARE: "the hardware",
    SlowedBy.TEMPERATURE: "its temperature",
    SlowedBy.POWER_SUPPLY: "the power supply",
}


def benched(report: BenchReport, out: Path) -> Iterator[Section]:
    yield Section("Measured times", tables=[times_table(report)], lines=list(bench_notes(report)))
    if calibration := report.calibration:
        left = [f"left as assumed: {name}: {why}" for name, why in calibration.measured.left.items()]
        used = f"plans for this GPU go by it: {calibration.path}"
        yield Section("Calibrated", lines=[calibration_words(calibration.measured), *left, used])
    yield Section(lines=[f"times: {out / BENCH}"])


def times_table(report: BenchReport) -> Table:
    """Returns the times of each model at each size, the speed-up over dense, and the prediction if the card is known."""
    device, during = report.device, report.clocks and report.clocks.during
    clocks = ", ".join(map(" ".join, facts(during))) if during else ""
    runs = next((row.hybrid.runs for row in report.rows), 0)
    caption = (
        f"Measured on {device.name}: engines of {report.runner.words} {device.backend_version}, by the GPU's clock (CUDA "
        "events): inputs are there before and outputs stay there; a prompt runs as it is queued, a decode step as a CUDA "
        f"graph, as the runtime runs them; nothing is sampled. Medians of {runs} runs; p10 … p90: the middle 80 % of the "
        "hybrid model's runs, or of the rounds; spread: its range over the median, of the worst model."
        + (f" While it ran: {clocks}." if clocks else "")
    )
    return table_of(report.rows, _COLUMNS, caption)


def _hybrid_range(row: BenchRow) -> str:
    return f"{milliseconds(row.hybrid.p10_ms)} … {milliseconds(row.hybrid.p90_ms)}"


def _spread(row: BenchRow) -> str:
    return percent(max(timed.spread for which in Contender if (timed := row.of(which))))


def _uniform_speedup(row: BenchRow) -> str:
    if row.dense is None or row.uniform is None or not row.uniform.median_ms:
        return ""
    return times(row.dense.median_ms / row.uniform.median_ms)


_COLUMNS: Columns = {
    **columns_of(BenchRow, "phase", "speedup", "batch", "tokens"),
    **columns_of(BenchRow, "dense", "hybrid", over=Unit.MILLISECONDS),
    Column("p10 … p90", Unit.MILLISECONDS): _hybrid_range,
    **columns_of(BenchRow, "uniform", over=Unit.MILLISECONDS),
    "spread": _spread,
    Column("p10 … p90", _GAIN): lambda row: (
        "{:.2f} … {:.2f}".format(*row.speedup_p10_p90) if row.speedup_p10_p90 else ""
    ),
    Column(Contender.UNIFORM, _GAIN): _uniform_speedup,
    Column("predicted", _GAIN): lambda row: times(row.predicted.speedup) if row.predicted else "",
    **columns_of(BenchRow, "limit", over=_GAIN),
}


def bench_notes(report: BenchReport) -> Iterator[str]:
    if noise := sum(low <= 1 <= high for row in report.rows for low, high in [row.speedup_p10_p90 or (0, 0)]):
        yield (
            f"in {noise} of {len(report.rows)} rows no difference between dense and hybrid shows beyond the noise: the "
            "middle 80 % of the rounds holds 1"
        )
    sizes = (f"{which} {bytes_of(size)}" for which, size in report.bytes.items() if size)
    yield f"files: {', '.join(sizes)}"
    if Contender.UNIFORM in report.models:
        yield _UNIFORM
    yield from report.notes
    if report.clocks:
        yield from _clock_warnings(report.clocks)


def _clock_warnings(clocks: Clocks) -> Iterator[str]:
    for name, lock in _LOCKS.items() if clocks.during else ():
        clock, field = getattr(clocks.during, name), ClockRanges.shown_fields()[name]
        moved = (clock.max - clock.min) / clock.median
        if moved > _STEADY:
            yield (
                f"the {field.title} moved by {moved:.0%} while times were taken ({spelled(clock, field.unit)}); the models "
                f"took turns, so their ratios hold better than the times: lock it with nvidia-smi {lock}"
            )
    if clocks.slowed:
        reasons = ", ".join(dict.fromkeys(_SLOWED[reason] for reason in clocks.slowed))
        yield f"the GPU's clocks were held down while times were taken, by {reasons}"
