"""Prints builds side by side: a row for each, with a mark for those that no other build beats."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from patch_compile.report.terminal.parts import Part

__all__ = ["compared_parts"]

Row = Mapping[str, Any]
_PREDICTED = {"end_to_end": "all", "prefill": "prefill", "decode": "decode"}


def compared_parts(result: Row) -> Iterator[Part]:
    """Yield the result of `compare`."""
    quality = result["quality"]
    yield f"{Path(result['model']['path']).stem}: {quality['what']} on {quality['on']}"
    yield _table(result)
    yield from _lines(result)


def _table(result: Row) -> Table:
    """Returns a table, dense first. It leaves out columns that are empty for all builds."""
    builds, perplexity = result["builds"], result["quality"]["what"] == "perplexity"
    predicted = list(_PREDICTED) if builds[0]["predicted"] else []
    measured = list(result["measured"]["sizes"])
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("\nbuild", no_wrap=True)
    table.add_column("\nmethod", no_wrap=True)
    columns = [
        ("", "ratio"),
        ("", "perplexity" if perplexity else "error"),
        *([("", "more")] if perplexity else []),
    ]
    columns += [
        ("", "MB"),
        *(("predicted" * (i == 0), _PREDICTED[phase]) for i, phase in enumerate(predicted)),
    ]
    columns += [("measured" * (i == 0), phase) for i, phase in enumerate(measured)]
    for over, name in (*columns, ("", "Pareto")):
        table.add_column(f"{over}\n{name}", no_wrap=True, justify="right")
    dense = result["quality"]["dense"]
    table.add_row(
        "dense", "", "0.000", _figure(dense), *([""] if perplexity else []), f"{result['dense_bytes'] / 1e6:.1f}",
        *["1.00"] * (len(predicted) + len(measured)), "",
    )  # fmt: skip
    for row in builds:
        table.add_row(*_cells(row, predicted, measured))
    return table


def _cells(row: Row, predicted: list[str], measured: list[str]) -> Iterator[str]:
    yield from (row["name"], row["method"], f"{row['ratio']:.3f}", _figure(row["quality"]))
    if row["increase"] is not None:
        yield f"{row['increase']:+.1%}"
    yield f"{row['bytes'] / 1e6:.1f}"
    yield from (f"{row['predicted'][phase]:.2f}" for phase in predicted)
    yield from (f"{row['measured'][phase]:.2f}" if phase in row["measured"] else "" for phase in measured)
    yield "" if row["beaten_by"] else "yes"


def _figure(value: float) -> str:
    return f"{value:.2f}" if value >= 10 else f"{value:.3f}"


def _lines(result: Row) -> Iterator[str]:
    what, against = result["quality"]["what"], result["against"]
    names = ", ".join(result["pareto"])
    yield f"Pareto points, {what} against {against}: {names or 'none, the dense model beats them all'}"
    found = {row["name"]: (row["quality"], row["at"]) for row in result["builds"]}
    dense = result["quality"]["dense"], result["dense_at"]
    for row in result["builds"]:
        if other := row["beaten_by"]:
            (loss, gain), (less, more) = found[row["name"]], found.get(other, dense)
            yield (
                f"{row['name']} is beaten by {other}: {what} {_figure(loss)} against {_figure(less)}, {against} "
                f"{gain:.2f} against {more:.2f}"
            )
    if result["predicted_for"]:
        yield f"predicted: speed-up over dense on {result['predicted_for']}"
    for phase, size in result["measured"]["sizes"].items():
        tokens = "" if size["tokens"] is None else f", {size['tokens']} tokens"
        yield f"measured: {phase} at batch {size['batch']}{tokens} on {result['measured']['where']}"
    yield from (f"note: {note}" for note in result["notes"])
    if result["files"]:
        yield f"written: {', '.join(result['files'])}"
