"""A result beside its baselines, in a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

__all__ = ["print_baselines"]

Row = Mapping[str, Any]


def print_baselines(console: Console, compared: Row) -> None:
    """The result of `masklearn.baselines.compare`: the learned model first, its baselines below."""
    table = Table(box=SIMPLE_HEAD)
    for header in ("model", "ratio", "perplexity", "seconds", ""):
        table.add_column(header, no_wrap=True, justify="right" if header not in ("model", "") else "left")
    for row in compared["rows"]:
        about = "" if row["deployable"] else "a reference: no kernel runs it"
        seconds = "" if row["seconds"] is None else f"{row['seconds']:.0f}"
        table.add_row(row["name"], f"{row['ratio']:.3f}", f"{row['perplexity']:.2f}", seconds, about)
    console.print(table)
    console.print(
        f"perplexity on {compared['windows']} windows of {compared['length']} tokens, {compared['dtype']}; "
        "baselines have SparseGPT's weights, without repair",
        soft_wrap=True,
    )
    for remark in compared["remarks"]:
        console.print(f"note: {remark}", soft_wrap=True)
