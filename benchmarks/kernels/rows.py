"""A file of measured rows, one JSON object a line, written as they come."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

__all__ = ["Row", "Rows", "read_rows"]

Row = dict[str, Any]


class Rows:
    """Appends rows to a file. Rows that an earlier run has written are not measured again.

    about: what the rows hold for, such as the GPU's name and the kernels' fingerprint. Raises ValueError if the file
    has rows of something else.
    """

    def __init__(self, path: Path, about: Row) -> None:
        self._path, self._about = path, about
        self._known: dict[str, Row] = {}
        path.parent.mkdir(parents=True, exist_ok=True)
        self.reread()
        if not self._known:
            self.add("machine", {}, {"about": about})

    def reread(self) -> None:
        """Read the file again: another process may have added rows. A line that a crash cut off is removed."""
        text = self._path.read_text(encoding="utf-8") if self._path.exists() else ""
        if text and not text.endswith("\n"):
            self._path.write_text(text[: text.rfind("\n") + 1], encoding="utf-8")
        for row in read_rows(self._path) if text else ():
            if row["stage"] == "machine" and row["about"] != self._about:
                raise ValueError(
                    f"{self._path} has rows of {row['about']}, and this is {self._about}: name another file"
                )
            self._known[_identity(row["stage"], row["key"])] = row

    def known(self, stage: str, key: Row) -> bool:
        """True if the file has this row."""
        return _identity(stage, key) in self._known

    def add(self, stage: str, key: Row, figures: Row) -> None:
        """Write a row at once, so that a crash of a later one loses nothing."""
        row = {"stage": stage, "key": key, **figures}
        self._known[_identity(stage, key)] = row
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")

    def of(self, stage: str) -> list[Row]:
        """All rows of a stage, in the order in which they were measured."""
        return [row for row in self._known.values() if row["stage"] == stage]


def read_rows(path: Path) -> list[Row]:
    """The rows of a file, without a last line that a crash cut off."""
    text = path.read_text(encoding="utf-8")
    return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]


def _identity(stage: str, key: Row) -> str:
    return json.dumps([stage, key], sort_keys=True)
