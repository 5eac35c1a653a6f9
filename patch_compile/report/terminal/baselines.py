"""Prints a result beside its baselines."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from patch_compile.report.terminal.parts import Part

__all__ = ["baseline_parts"]

Row = Mapping[str, Any]


def baseline_parts(compared: Row) -> Iterator[Part]:
    """Yield the result of `masklearn.baselines.compare`: the learned model first, its baselines below."""
    table = Table(box=SIMPLE_HEAD)
    for header in ("model", "ratio", "perplexity", "seconds", ""):
        table.add_column(header, no_wrap=True, justify="right" if header not in ("model", "") else "left")
    for row in compared["rows"]:
        about = "" if row["deployable"] else "a reference: no kernel runs it"
        seconds = "" if row["seconds"] is None else f"{row['seconds']:.0f}"
        table.add_row(row["name"], f"{row['ratio']:.3f}", f"{row['perplexity']:.2f}", seconds, about)
    yield table
    yield (
        f"perplexity on {compared['windows']} windows of {compared['length']} tokens, {compared['dtype']}; "
        "baselines have SparseGPT's weights, without repair"
    )
    yield from (f"note: {remark}" for remark in compared["remarks"])
