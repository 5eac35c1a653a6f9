"""Result of `inspect` for one file or folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["Inspection"]


@dataclass(frozen=True)
class Inspection:
    """Result of `inspect`.

    kind: kind of the file or folder, in words; facts: name to value, in the order in which they are shown; rows: rows of a
    table, all with the same keys; checked: the verified properties, in words; faults: the faults, empty if there are none.
    """

    path: Path
    kind: str
    facts: Mapping[str, Any]
    rows: Sequence[Mapping[str, Any]] = ()
    checked: str = ""
    faults: Sequence[str] = ()

    def as_json(self) -> dict[str, Any]:
        """Returns the result for JSON."""
        return {
            "path": str(self.path),
            "kind": self.kind,
            **self.facts,
            "rows": [dict(row) for row in self.rows],
            "checked": self.checked,
            "faults": list(self.faults),
        }
