"""Base class of the library's results: a report that prints as a table in a terminal and as HTML in a notebook."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from patch_compile.report.terminal.parts import Part, Parts

__all__ = ["Result"]


class _Record(Protocol):
    def as_json(self) -> dict[str, Any]:
        """Returns the record as JSON values."""


@dataclass(frozen=True, repr=False)
class Result(ABC):
    """Result of a function of the library. report: all findings, as `--json` prints them."""

    report: _Record | dict[str, Any]

    @abstractmethod
    def summary(self) -> str:
        """Returns a description of the result in one line."""

    @abstractmethod
    def parts(self) -> Iterator[Part]:
        """Yield the lines and tables that the command prints."""

    def json(self) -> str:
        """Returns the report as the JSON text that `--json` prints."""
        report = self.report if isinstance(self.report, dict) else self.report.as_json()
        return json.dumps(report, indent=1)

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self.summary()}>"

    def __rich__(self) -> Parts:
        from patch_compile.report.terminal.parts import Parts

        return Parts(self.parts())

    def _repr_html_(self) -> str:
        return self.__rich__().html()
