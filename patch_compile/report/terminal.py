"""Renders sections as text, for a terminal and for a notebook."""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Iterator, Sequence

from rich.box import SIMPLE_HEAD
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table as RichTable
from rich.text import Text

from masklearn.base.printable import one_line, printable
from patch_compile.report.section import Column, Section, Table

_PIPE_WIDTH = 120  # a pipe has no width of its own
_LABEL = 26  # columns that names of facts may take before their values stop to line up
_NAME = 3  # names of rows may take a third of the width before they are broken
_WORDS = 24  # columns that words need; longer words are broken
_STYLE = "white-space:pre;overflow-x:auto;line-height:normal;font-family:Menlo,'DejaVu Sans Mono',monospace"


class Sections:
    """Sections, one below the other, for rich and for a notebook."""

    def __init__(self, sections: Iterable[Section]) -> None:
        self._sections = tuple(sections)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        plain = options.update(markup=False, highlight=False)  # brackets in names and paths are not markup
        for part in _parts(self._sections, options.max_width):
            yield from console.render(Text(part) if isinstance(part, str) else part, plain)

    def html(self) -> str:
        console = Console(file=io.StringIO(), record=True, width=_PIPE_WIDTH, force_jupyter=False)
        console.print(self)
        return console.export_html(inline_styles=True, code_format=f'<pre style="{_STYLE}">{{code}}</pre>')


class _Stdout(Console):
    """Stdout. The command line decides what to do when nobody reads it."""

    def on_broken_pipe(self) -> None:
        """Raise the error that rich is handling, which by itself would end the process."""
        raise


def show(sections: Iterable[Section]) -> None:
    """Print to stdout, as wide as the terminal or the variable COLUMNS. It never cuts lines, not even in a pipe."""
    console = _Stdout(markup=False, highlight=False)
    if not console.is_terminal and not os.environ.get("COLUMNS", "").isdigit():
        console.width = _PIPE_WIDTH
    for part in _parts(sections, console.width):
        console.print(part, soft_wrap=isinstance(part, str))


def _parts(sections: Iterable[Section], width: int) -> Iterator[str | RichTable]:
    """Yield lines and tables. Names in them may come from files that anybody wrote, so all text is made printable."""
    begun = False
    for section in sections:
        if begun and section.title:
            yield ""
        for part in _section(section, width):
            begun = True
            yield part


def _section(section: Section, width: int) -> Iterator[str | RichTable]:
    if section.title:
        yield one_line(f"{section.title} {section.answered}".rstrip())
    label = min(max((cell_len(name) for name, _ in section.facts), default=0), _LABEL)
    for name, value in section.facts:
        yield f"  {one_line(name):{label}}  {one_line(value)}"
    for table in section.tables:
        if table.caption:
            yield one_line(table.caption)
        yield from _tables(table, width)
    yield from map(one_line, section.lines)
    yield from map(printable, section.text.splitlines())
    for folded in section.folded:
        yield from _section(folded, width)


def _tables(table: Table, width: int) -> Iterator[RichTable]:
    """Yield a table, or several that repeat the names of the rows, so that no number is cut."""
    columns = table.columns
    if not columns:
        return
    rows = [list(map(one_line, row)) for row in (*table.rows, *([table.sums] if table.sums else []))]
    longest = [
        max(map(cell_len, (one_line(column.title), *(row[i] for row in rows))))
        for i, column in enumerate(columns)
    ]
    first = min(longest[0] + 3, width // _NAME)
    blocks, used = [[0]], first
    for i, column in enumerate(columns[1:], 1):
        begins = column.over != columns[blocks[-1][-1]].over
        needed = (
            max(min(longest[i], _WORDS) if column.words else longest[i], cell_len(column.over) * begins) + 2
        )
        if len(blocks[-1]) > 1 and used + needed > width:
            blocks.append([0])
            used, needed = first, max(needed, cell_len(column.over) + 2)
        blocks[-1].append(i)
        used += needed
    for block in blocks:
        wrap = first + longest[block[-1]] + 2 > width
        made = _table([columns[i] for i in block], wrap=wrap, edge=not table.tight)
        for i, row in enumerate(rows):
            if table.sums and i == len(rows) - 1:
                made.add_section()
            made.add_row(*(Text(row[i]) for i in block))
        yield made


def _table(columns: Sequence[Column], *, wrap: bool, edge: bool) -> RichTable:
    """Returns a table without rows. wrap: break even numbers, for which there is no room; edge: empty lines around it."""
    made = RichTable(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=edge)
    grouped = any(column.over for column in columns)
    for i, column in enumerate(columns):
        words = i == 0 or column.words
        over = column.over if i == 0 or columns[i - 1].over != column.over else ""
        title = one_line(column.title)
        heading = f"{one_line(over)}\n{title}" if grouped else title
        made.add_column(
            heading, justify="left" if words else "right", overflow="fold", no_wrap=not (words or wrap)
        )
    return made
