"""Sections of the times that `bench` measured, and of reasons to doubt them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from patch_compile.artifacts.bench import (
    BenchReport,
    BenchRow,
    Clocks,
    Contender,
    Phase,
    SlowedBy,
    Spread,
    Timed,
)
from patch_compile.artifacts.layout import BENCH
from patch_compile.report.number_format import bytes_of, milliseconds, percent, times
from patch_compile.report.prediction import calibration_words
from patch_compile.report.section import Column, Section, Table

# Phases of predicted and of measured times, within a sentence about a speed.
IN_PHASE: dict[str, str] = {
    "end_to_end": "end to end",
    Phase.PREFILL: "in prefill",
    Phase.DECODE: "in decode",
    Phase.WHOLE: "for a whole run",
}
_UNIFORM = (
    "uniform 2:4: every tile of every covered linear, by magnitude, compiled as the hybrid model was; which weights are "
    "kept makes no difference to time"
)
_BUSY = 0.25  # share of the cores; less other work hardly shows
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
    models = [Column(name, "ms") for name in ("dense", "hybrid", "p10 … p90", "uniform 2:4")]
    gains = [Column(name, "speed-up") for name in ("p10 … p90", "uniform 2:4", "predicted", "limit")]
    headings: list[Column | str] = [
        Column("phase", words=True),
        "speed-up",
        "batch",
        "tokens",
        *models,
        "spread",
        *gains,
    ]
    rows = [[row.phase, *_cells(row)] for row in report.rows]
    clocks = ", ".join(clock_words(report.clocks))
    runs = next((row.hybrid.runs for row in report.rows), 0)
    caption = (
        f"Measured on {report.device.name}: {_timed_words(report)}. Medians of {runs} runs; p10 … p90: the middle 80 % of "
        "the hybrid model's runs, or of the rounds; spread: its range over the median, of the worst model."
        + (f" While it ran: {clocks}." if clocks else "")
    )
    return Table(headings, rows, caption).without_empty()


def _cells(row: BenchRow) -> Iterator[str]:
    yield times(row.speedup) if row.speedup else ""
    yield from (str(row.batch), "" if row.tokens is None else str(row.tokens))
    yield from (_median(row.dense), _median(row.hybrid))
    yield f"{milliseconds(row.hybrid.p10_ms)} … {milliseconds(row.hybrid.p90_ms)}"
    yield _median(row.uniform)
    yield percent(max(timed.spread for which in Contender if (timed := row.of(which))))
    yield "{:.2f} … {:.2f}".format(*row.speedup_p10_p90) if row.speedup_p10_p90 else ""
    yield (
        times(row.dense.median_ms / row.uniform.median_ms)
        if row.dense and row.uniform and row.uniform.median_ms
        else ""
    )
    yield times(row.predicted.speedup) if row.predicted else ""
    yield times(row.limit) if row.limit else ""


def _median(timed: Timed | None) -> str:
    return milliseconds(timed.median_ms) if timed else ""


def _timed_words(report: BenchReport) -> str:
    device, library = report.device, report.runner.words
    if not report.runner.on_gpu:
        return (
            f"ONNX files in {library} {device.backend_version} on the CPU ({device.cores} cores). It says nothing about a "
            "GPU, nor about what 2:4 gains: ONNX Runtime has no 2:4 kernels, and runs PatchLinear as the function it is "
            "defined by, a dense product of weights that are unpacked when the model is loaded"
        )
    return (
        f"engines of {library} {device.backend_version}, by the GPU's clock (CUDA events): inputs are there before and "
        "outputs stay there; a prompt runs as it is queued, a decode step as a CUDA graph, as the runtime runs them; "
        "nothing is sampled"
    )


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
    if report.busy >= _BUSY:
        yield (
            f"other processes keep {report.busy:.0%} of the cores busy: times are longer than they need be; the models take "
            "turns, so that their ratios hold better"
        )
    if report.clocks:
        yield from _clock_warnings(report.clocks)


def clock_words(clocks: Clocks | None) -> Iterator[str]:
    """Yield the range of each of a GPU's figures during the timing, such as `SM clock 1695 MHz`."""
    if clocks is None or clocks.during is None:
        return
    during = clocks.during
    yield f"SM clock {_range(during.sm_mhz)} MHz"
    yield f"memory {_range(during.memory_mhz)} MHz"
    yield f"{_range(during.watts)} W"
    yield f"{_range(during.celsius)} °C"


def _clock_warnings(clocks: Clocks) -> Iterator[str]:
    if during := clocks.during:
        for what, lock, seen in (
            ("SM", "--lock-gpu-clocks", during.sm_mhz),
            ("memory", "--lock-memory-clocks", during.memory_mhz),
        ):
            moved = (seen.max - seen.min) / seen.median
            if moved > _STEADY:
                yield (
                    f"the {what} clock moved by {moved:.0%} while times were taken ({_range(seen)} MHz); the models took "
                    f"turns, so their ratios hold better than the times: lock it with nvidia-smi {lock}"
                )
    if clocks.slowed:
        reasons = ", ".join(dict.fromkeys(_SLOWED[one] for one in clocks.slowed))
        yield f"the GPU's clocks were held down while times were taken, by {reasons}"


def _range(seen: Spread) -> str:
    low, high = f"{seen.min:.0f}", f"{seen.max:.0f}"
    return low if low == high else f"{low} … {high}"
