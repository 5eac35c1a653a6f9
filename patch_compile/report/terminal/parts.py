"""A printable result: lines and tables, for a terminal and for a notebook."""

from __future__ import annotations

import io
import os
from collections.abc import Iterable
from typing import TypeAlias

from rich.console import Console, ConsoleOptions, RenderResult
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from masklearn.base.printable import one_line, printable

__all__ = ["Part", "Parts", "show"]

Part: TypeAlias = str | Table
_PIPE_WIDTH = 120  # a pipe has no width of its own
_STYLE = "white-space:pre;overflow-x:auto;line-height:normal;font-family:Menlo,'DejaVu Sans Mono',monospace"


class Parts:
    """Lines and tables, one below the other, for rich and for a notebook."""

    def __init__(self, parts: Iterable[Part]) -> None:
        self._parts = tuple(parts)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        plain = options.update(markup=False, highlight=False)  # brackets in names and paths are no markup
        for part in self._parts:
            yield from console.render(
                Text(one_line(part)) if isinstance(part, str) else _Printable(part), plain
            )

    def html(self) -> str:
        """Returns the parts as HTML, in a fixed width."""
        console = Console(file=io.StringIO(), record=True, width=_PIPE_WIDTH, force_jupyter=False)
        console.print(self)
        return console.export_html(inline_styles=True, code_format=f'<pre style="{_STYLE}">{{code}}</pre>')


def show(parts: Iterable[Part]) -> None:
    """Print to stdout, as wide as the terminal or the variable COLUMNS. It never cuts lines, not even in a pipe."""
    console = Console(markup=False, highlight=False)
    if not console.is_terminal and not os.environ.get("COLUMNS", "").isdigit():
        console.width = _PIPE_WIDTH
    for part in parts:
        if isinstance(part, str):
            console.print(one_line(part), soft_wrap=True)
        else:
            console.print(_Printable(part))


class _Printable:
    """A table whose cells are printable. Names in them may come from files that anybody wrote."""

    def __init__(self, table: Table) -> None:
        self._table = table

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for segment in console.render(self._table, options):
            yield Segment(printable(segment.text), segment.style, segment.control)
