"""What `inspect` finds out about one file or folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

__all__ = ["Found"]


@dataclass(frozen=True)
class Found:
    """kind: in words; facts: name to value, in the order to be shown; rows: a table, all with the same keys.

    checked: what was verified, in words; faults: what is wrong, empty for a whole file.
    """

    path: Path
    kind: str
    facts: Mapping[str, Any]
    rows: Sequence[Mapping[str, Any]] = ()
    checked: str = ""
    faults: Sequence[str] = field(default=())

    def as_json(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "path": str(self.path),
            "kind": self.kind,
            **self.facts,
            "rows": [dict(row) for row in self.rows],
            "checked": self.checked,
            "faults": list(self.faults),
        }
