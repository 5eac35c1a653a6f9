"""Prints the times of `bench`: a row for each size, and notes on their reliability."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.table import Table

from patch_compile.artifacts.bench import BenchReport, BenchRow, Contender
from patch_compile.report.bench import bench_notes, clock_words, timed_words
from patch_compile.report.prediction import calibration_words
from patch_compile.report.terminal.folding import FoldingTable
from patch_compile.report.terminal.parts import Part

__all__ = ["benched_parts"]


def benched_parts(report: BenchReport, path: str) -> Iterator[Part]:
    """Yield the result of `bench`, which lies at `path`."""
    yield f"timed: {timed_words(report)}"
    yield _table(report)
    yield (
        f"medians of {report.rows[0].hybrid.runs} runs; spread: of the middle 80 % of them, over the median, of "
        "the worst model; speed-up: of the medians over dense, and that of the middle 80 % of the rounds"
    )
    yield from _lines(report, path)


def _table(report: BenchReport) -> Table:
    """Returns the times of each model, the gain over dense, and the prediction if the card is known."""
    rows, models = report.rows, report.models
    table = FoldingTable()
    table.add_column("\nphase")
    ratios = ["hybrid", "p10 … p90"] if Contender.DENSE in models else []
    ratios += ["2:4"] if {Contender.DENSE, Contender.UNIFORM} <= {*models} else []
    expected = any(row.limit for row in rows)
    groups = [[("", "batch"), ("", "tokens")], [("ms", str(which)) for which in models], [("", "spread")]]
    groups += [[("speed-up" if i == 0 else "", name) for i, name in enumerate(ratios)]]
    groups += [[("", "predicted"), ("", "limit")]] if expected else []
    for group in groups:
        for i, (over, name) in enumerate(group):
            table.add_number(f"{over}\n{name}", joined=i > 0)
    for row in rows:
        table.add_row(*_cells(row, models, expected=expected))
    return table


def _cells(row: BenchRow, models: Sequence[Contender], *, expected: bool) -> Iterator[str]:
    times = [timed for which in models if (timed := row.of(which))]
    yield from (row.phase, str(row.batch), "" if row.tokens is None else str(row.tokens))
    yield from (_milliseconds(timed.median_ms) for timed in times)
    yield f"{max(timed.spread for timed in times):.0%}"
    if row.dense and row.speedup and row.speedup_p10_p90:
        low, high = row.speedup_p10_p90
        yield from (f"{row.speedup:.2f}", f"{low:.2f} … {high:.2f}")
        if row.uniform:
            yield f"{row.dense.median_ms / row.uniform.median_ms:.2f}"
    if expected:
        yield f"{row.predicted.speedup:.2f}" if row.predicted else ""
        yield f"{row.limit:.2f}" if row.limit else ""


def _milliseconds(time: float) -> str:
    return f"{time:.{1 if time >= 100 else 2 if time >= 10 else 3}f}"


def _is_noise(row: BenchRow) -> bool:
    if row.speedup_p10_p90 is None:
        return False
    low, high = row.speedup_p10_p90
    return low <= 1 <= high


def _lines(report: BenchReport, path: str) -> Iterator[str]:
    if noise := sum(map(_is_noise, report.rows)):
        yield (
            f"in {noise} of {len(report.rows)} rows no difference between dense and hybrid shows beyond the noise: "
            "the middle 80 % of the rounds holds 1"
        )
    sizes = (f"{which} {size / 1e6:.1f} MB" for which, size in report.bytes.items() if size)
    yield f"files: {', '.join(sizes)}"
    if clocks := ", ".join(clock_words(report.clocks)):
        yield f"while it ran: {clocks}"
    yield from (f"note: {note}" for note in bench_notes(report))
    if calibration := report.calibration:
        yield f"calibrated: {calibration_words(calibration.measured)}"
        yield from (f"left as assumed: {name}: {why}" for name, why in calibration.measured.left.items())
        yield f"plans for this GPU go by it: {calibration.path}"
    yield f"times: {path}"
