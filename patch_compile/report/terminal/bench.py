"""Prints the times of `bench`: a row for each size, and notes on their reliability."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from patch_compile.out.plan import Calibration
from patch_compile.report.prediction import calibration_words
from patch_compile.report.terminal.parts import Part

__all__ = ["benched_parts"]

Row = Mapping[str, Any]
_MODELS = ("dense", "hybrid", "uniform-2:4")


def benched_parts(result: Row, path: str) -> Iterator[Part]:
    """Yield the result of `bench`, which lies at `path`."""
    yield f"timed: {result['what']}"
    yield _table(result)
    yield (
        f"medians of {result['rows'][0]['hybrid']['runs']} runs; spread: of the middle 80 % of them, over the median, of "
        "the worst model; speed-up: of the medians over dense, and that of the middle 80 % of the rounds"
    )
    yield from _lines(result, path)


def _table(result: Row) -> Table:
    """Returns the times of each model, the gain over dense, and the prediction if the card is known."""
    rows = result["rows"]
    models = [name for name in _MODELS if any(row[name] for row in rows)]
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))  # fits into 100 columns
    table.add_column("\nphase", no_wrap=True)
    ratios = ["hybrid", "p10 … p90"] if "dense" in models else []
    ratios += ["2:4"] if {"dense", "uniform-2:4"} <= {*models} else []
    expected = ["predicted", "limit"] if any(row["limit"] for row in rows) else []
    above = {"dense": "ms", "hybrid": "ms", "uniform-2:4": "ms"}
    columns = [("", "batch"), ("", "tokens"), *((above[name], name) for name in models), ("", "spread")]
    columns += [("speed-up" if i == 0 else "", name) for i, name in enumerate(ratios)]
    for over, name in (*columns, *(("", name) for name in expected)):
        table.add_column(f"{over}\n{name}", no_wrap=True, justify="right")
    for row in rows:
        table.add_row(*_cells(row, models, bool(expected)))
    return table


def _cells(row: Row, models: list[str], expected: bool) -> Iterator[str]:
    yield from (row["phase"], str(row["batch"]), "" if row["tokens"] is None else str(row["tokens"]))
    yield from (_milliseconds(row[name]["median_ms"]) for name in models)
    yield f"{max(_spread(row[name]) for name in models):.0%}"
    if "dense" in models:
        low, high = row["speedup_p10_p90"]
        yield from (f"{row['speedup']:.2f}", f"{low:.2f} … {high:.2f}")
        if "uniform-2:4" in models:
            yield f"{row['dense']['median_ms'] / row['uniform-2:4']['median_ms']:.2f}"
    if expected:
        yield f"{row['predicted']['speedup']:.2f}" if row["predicted"] else ""
        yield f"{row['limit']:.2f}" if row["limit"] else ""


def _milliseconds(time: float) -> str:
    return f"{time:.{1 if time >= 100 else 2 if time >= 10 else 3}f}"


def _is_noise(row: Row) -> bool:
    low, high = row["speedup_p10_p90"]
    return bool(low <= 1 <= high)


def _spread(times: Row) -> float:
    return float((times["p90_ms"] - times["p10_ms"]) / times["median_ms"])


def _lines(result: Row, path: str) -> Iterator[str]:
    noise = [row for row in result["rows"] if row["speedup"] and _is_noise(row)]
    if noise:
        yield (
            f"in {len(noise)} of {len(result['rows'])} rows no difference between dense and hybrid shows beyond the noise: "
            "the middle 80 % of the rounds holds 1"
        )
    sizes = (f"{name} {size / 1e6:.1f} MB" for name, size in result["bytes"].items() if size)
    yield f"files: {', '.join(sizes)}"
    yield from filter(None, [_clocks(result["clocks"])])
    yield from (f"note: {note}" for note in result["notes"])
    if calibration := result.get("calibration"):
        measured = Calibration.model_validate(calibration["measured"])
        yield f"calibrated: {calibration_words(measured)}"
        yield from (f"left as assumed: {name}: {why}" for name, why in measured.left.items())
        yield f"plans for this GPU go by it: {calibration['path']}"
    yield f"times: {path}"


def _clocks(clocks: Row | None) -> str:
    if clocks is None or not clocks["samples"]:
        return ""
    during = clocks["during"]

    def spread(name: str) -> str:
        low, high = during[name]["min"], during[name]["max"]
        return f"{low:.0f}" if low == high else f"{low:.0f} … {high:.0f}"

    return (
        f"while it ran: SM clock {spread('sm_mhz')} MHz, memory {spread('memory_mhz')} MHz, {spread('watts')} W, "
        f"{spread('celsius')} °C"
    )
