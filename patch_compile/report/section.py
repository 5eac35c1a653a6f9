"""A result for people, as data: sections that a terminal and the page render from the same content."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby
from typing import Any, Literal, TypeAlias

from patch_compile.artifacts.record import Record, Shown, Unit
from patch_compile.report.number_format import spelled

Fact: TypeAlias = tuple[str, str]
Mark: TypeAlias = Literal["", "yes", "no", "open"]
_SIGNS: dict[Mark, str] = {"": "", "yes": "✓ ", "no": "✕ ", "open": "○ "}


@dataclass(frozen=True)
class Column:
    """A column of a table, of numbers unless it has words. over: a heading that neighbouring columns share."""

    title: str
    over: str = ""
    words: bool = False


Columns: TypeAlias = Mapping[Column | str, Callable[[Any], str]]
"""Headings of a table, with functions that spell the cell of a row."""


@dataclass(frozen=True)
class Table:
    """A table. Its first column names the rows; a string as a heading stands for a column of numbers. sums: the last row.

    tight: without empty lines around it in a terminal.
    """

    headings: Sequence[Column | str]
    rows: Sequence[Sequence[str]]
    caption: str = ""
    sums: Sequence[str] = ()
    tight: bool = False

    @property
    def columns(self) -> list[Column]:
        return [Column(one) if isinstance(one, str) else one for one in self.headings]

    @property
    def groups(self) -> list[tuple[str, int]]:
        """Returns the headings over columns, with the number of neighbours that share each; no list without any."""
        groups = [
            (over, len(list(alike))) for over, alike in groupby(self.columns, lambda column: column.over)
        ]
        return groups if any(over for over, _ in groups) else []

    def without_empty(self) -> Table:
        """Returns the table without columns that are empty in all rows."""
        kept = [i for i, _ in enumerate(self.headings) if not self.rows or any(row[i] for row in self.rows)]
        rows = [[row[i] for i in kept] for row in self.rows]
        sums = [self.sums[i] for i in kept] if self.sums else []
        return replace(self, headings=[self.headings[i] for i in kept], rows=rows, sums=sums)


@dataclass(frozen=True)
class Section:
    """A part of a result.

    answer, mark: the answer if the title is a question; about: an explanation for the page; facts: names and values; lines:
    sentences about the facts and tables above them; text: shown exactly as written; folded: sections that the page shows on
    demand; id: the target of links to it on the page.
    """

    title: str = ""
    id: str = ""
    answer: str = ""
    mark: Mark = ""
    about: str = ""
    facts: Sequence[Fact] = ()
    tables: Sequence[Table] = ()
    lines: Sequence[str] = ()
    text: str = ""
    folded: Sequence[Section] = ()

    @property
    def holds(self) -> bool:
        return bool(self.facts or self.lines or self.text or any(table.rows for table in self.tables))

    @property
    def answered(self) -> str:
        return _SIGNS[self.mark] + self.answer


def facts(*records: Record) -> Iterator[Fact]:
    """Yield title and value of the fields that have a title, if they are known."""
    for record in records:
        for field in record.shown_fields().values():
            if (value := getattr(record, field.name)) is not None:
                yield field.title, spelled(value, field.unit)


def columns_of(
    record: type[Record], *names: str, over: str = "", of: Callable[[Any], Any] = lambda row: row
) -> Columns:
    """Returns columns of fields, of all that have a title if none is named. of: returns the record of a row, or None."""
    fields = record.shown_fields()
    chosen = [fields[name] for name in names or fields]
    return {
        Column(field.title, over, field.unit is Unit.WORDS): partial(_cell, of, field) for field in chosen
    }


def _cell(of: Callable[[Any], Any], field: Shown, row: Any) -> str:
    value = getattr(of(row), field.name, None)
    return "" if value is None else spelled(value, field.unit, bare=True)


def table_of(rows: Iterable[Any], columns: Columns, caption: str = "", sums: Any = None) -> Table:
    """Returns a table without empty columns. sums: the last row, None for none."""
    cells = [[spell(row) for spell in columns.values()] for row in rows]
    last = [spell(sums) for spell in columns.values()] if sums else []
    return Table(list(columns), cells, caption, last).without_empty()
