"""The plan of a model as a person reads it, or as JSON on stdout."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from statistics import fmean
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from patch_compile.report.prediction import reason_lines
from patch_compile.report.terminal.console import by_kind, new_console

__all__ = ["print_plan"]

Row = Mapping[str, Any]
_TIMES = ("dense", "hybrid", "2:4")
_PHASES = {"prefill": "prefill", "decode": "decode, all steps", "end_to_end": "end to end"}


def print_plan(result: Row, *, as_json: bool) -> None:
    """The result of `plan`: linears by kind, reasons, the whole model, and what it all rests on."""
    if as_json:
        print(json.dumps(result, indent=1))
        return
    console = new_console()
    console.print(f"predicted on {result['card']['words']}; {result['workload']['words']}", soft_wrap=True)
    console.print(_linears_table(result["linears"]))
    console.print(
        "µs: one linear on its own, for all prompts and for a decode step; p: share of weights in 2:4 tiles"
    )
    console.print(_whole_table(result["whole"]))
    for line in _lines(result):
        console.print(line, soft_wrap=True)


def _lines(result: Row) -> Iterator[str]:
    yield f"ratio: {result['ratio']:.4f} (asked: {result['asked']})"
    yield from reason_lines(result["linears"])
    yield from (f"left dense: {row['name']}: {row['reason']}" for row in result["skipped"])
    yield from (f"note: {note}" for note in (*result["notes"], *result["remarks"]))


def _linears_table(linears: Iterable[Row]) -> Table:
    """One row per kind of linear, shape and lowering; times are means of the row's linears."""
    table = Table(box=SIMPLE_HEAD, padding=0)  # 100 columns hold it
    table.add_column("\nlinear", no_wrap=True)
    headers = ["count", "shape", "p", "lowering", *_TIMES, *_TIMES, "before", "after"]
    above = {4: "prefill", 5: "µs", 7: "decode", 8: "µs", 10: "MB"}
    for i, header in enumerate(headers):
        table.add_column(f"{above.get(i, '')}\n{header}", no_wrap=True, justify="right")
    linears = list(linears)
    for (kind, shape, lowering), rows in by_kind(linears).items():
        table.add_row(
            kind, str(len(rows)), shape, _share(rows), lowering, *_microseconds(rows), *_megabytes(rows)
        )
    table.add_section()
    table.add_row("all", str(len(linears)), "", _share(linears), "", *[""] * 6, *_megabytes(linears))
    return table


def _share(rows: list[Row]) -> str:
    weights = sum(row["shape"][0] * row["shape"][1] for row in rows)
    return f"{2 * sum(row['zeroed'] for row in rows) / weights:.2f}"


def _microseconds(rows: list[Row]) -> Iterator[str]:
    for phase in ("prefill", "decode"):
        for kind in _TIMES:
            mean = fmean(row["predicted"][phase][kind] for row in rows)
            yield f"{mean:.0f}" if mean >= 1000 else f"{mean:.1f}"


def _megabytes(rows: list[Row]) -> Iterator[str]:
    for key in ("bytes_before", "bytes_after"):
        yield f"{sum(row[key] for row in rows) / 1e6:.1f}"


def _whole_table(whole: Row) -> Table:
    """Milliseconds of the workload, dense and as planned, and the limit of their ratio."""
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("whole model, ms", no_wrap=True)
    for header in ("dense", "planned", "speed-up", "limit"):
        table.add_column(header, no_wrap=True, justify="right")
    for phase, words in _PHASES.items():
        row = whole[phase]
        times = (f"{row[key]:.1f}" for key in ("dense_ms", "planned_ms"))
        table.add_row(words, *times, f"{row['speedup']:.2f}", f"{row['limit']:.2f}")
    return table
