"""A result for people, as data: sections that a terminal and the page render from the same content."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any, Literal, TypeAlias

from patch_compile.artifacts.record import Record
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


@dataclass(frozen=True)
class Table:
    """A table. Its first column names the rows; a string as a heading stands for a column of numbers. sums: the last row."""

    headings: Sequence[Column | str]
    rows: Sequence[Sequence[str]]
    caption: str = ""
    sums: Sequence[str] = ()

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
        return replace(self, headings=[self.headings[i] for i in kept], rows=rows)


@dataclass(frozen=True)
class Section:
    """A part of a result.

    answer, mark: the answer if the title is a question; about: an explanation for the page; facts: names and values; lines:
    sentences about the facts and tables above them; chart: a picture for the page, as SVG; text: shown exactly as written;
    folded: sections that the page shows on demand; id: the target of links to it on the page.
    """

    title: str = ""
    id: str = ""
    answer: str = ""
    mark: Mark = ""
    about: str = ""
    chart: Any = ""
    facts: Sequence[Fact] = ()
    tables: Sequence[Table] = ()
    lines: Sequence[str] = ()
    text: str = ""
    folded: Sequence[Section] = ()

    @property
    def holds(self) -> bool:
        """True if it has any content."""
        return bool(self.facts or self.lines or self.text or any(table.rows for table in self.tables))

    @property
    def answered(self) -> str:
        return _SIGNS[self.mark] + self.answer


def facts(*records: Record) -> Iterator[Fact]:
    """Yield title and value of the fields that have a title, if they are known."""
    for record in records:
        for one in record.shown_fields():
            if one.value is not None:
                yield one.title, spelled(one.value, one.unit)


def table_of(records: Iterable[Record], caption: str = "") -> Table:
    """Returns a row for each record, and a column for each field with a title that any of them knows."""
    fields = [list(record.shown_fields()) for record in records]
    headings = [Column(one.title, words=isinstance(one.value, str)) for one in (fields or [[]])[0]]
    rows = [
        ["" if one.value is None else spelled(one.value, one.unit, bare=True) for one in row]
        for row in fields
    ]
    return Table(headings, rows, caption).without_empty()
