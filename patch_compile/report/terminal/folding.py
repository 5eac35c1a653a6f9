"""A table that fits any width: columns that have no room continue below, and no number is cut."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from rich.box import SIMPLE_HEAD, Box
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Column, Table

__all__ = ["FoldingTable"]

_WIDE = 10_000  # columns that a table is measured in, so that nothing of it is shortened
_NAME = 3  # the first column may take a third of the width before its names are broken


class FoldingTable(Table):
    """A table whose first column names the rows. Too wide a table becomes several, and each begins with the names."""

    def __init__(
        self,
        *,
        box: Box | None = SIMPLE_HEAD,
        padding: Any = (0, 1, 0, 0),
        header_style: str = "table.header",
    ) -> None:
        super().__init__(box=box, padding=padding, header_style=header_style)
        self._joined: set[int] = set()

    def add_number(self, header: str, *, joined: bool = False) -> None:
        """Add a column of numbers or short words. joined: it stays beside the column before it."""
        if joined:
            self._joined.add(len(self.columns))
        self.add_column(header, justify="right", no_wrap=True)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for block in self._blocks(console, options):
            yield self._of(block, all_break=not self._fits(block, console, options))

    def _blocks(self, console: Console, options: ConsoleOptions) -> list[list[Column]]:
        """Returns the columns of each table, without the names: as many as fit, in their order."""
        blocks: list[list[Column]] = [[]]
        for group in self._groups():
            parts = [group] if self._fits(group, console, options) else [[column] for column in group]
            for part in parts:
                if blocks[-1] and not self._fits([*blocks[-1], *part], console, options):
                    blocks.append([])
                blocks[-1] += part
        return blocks

    def _groups(self) -> Iterator[list[Column]]:
        group: list[Column] = []
        for column in self.columns[1:]:
            if group and column._index not in self._joined:
                yield group
                group = []
            group.append(column)
        if group:
            yield group

    def _fits(self, columns: Sequence[Column], console: Console, options: ConsoleOptions) -> bool:
        def width(some: Sequence[Column]) -> int:
            return console.measure(self._of(some), options=options.update_width(_WIDE)).maximum

        names = width([])
        shortest = min(names, options.max_width // _NAME)
        return width(columns) - names + shortest <= options.max_width

    def _of(self, columns: Sequence[Column], *, all_break: bool = False) -> Table:
        """Returns an ordinary table of the names and some columns. Where there is no room, names break.

        all_break: the columns break too, because not even one of them has room.
        """
        table = Table(box=self.box, padding=self.padding, header_style=self.header_style)
        table.columns = [replace(one, _index=i) for i, one in enumerate([*self.columns[:1], *columns])]
        for column in table.columns if all_break else table.columns[:1]:
            column.no_wrap, column.overflow = False, "fold"
        table.rows = self.rows
        return table
