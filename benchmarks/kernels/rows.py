"""A file of measured rows, one JSON object a line, written as they come, and tables of them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

Row = dict[str, Any]


class Rows:
    """Appends rows to a file. Rows that an earlier run has written are not measured again.

    about: the setup that the rows are valid for, such as the GPU's name and the kernels' fingerprint. Raises ValueError if
    the file has rows of something else.
    """

    def __init__(self, path: Path, about: Row) -> None:
        self.path, self._about = path, about
        self._known: dict[str, Row] = {}
        path.parent.mkdir(parents=True, exist_ok=True)
        self.reread()
        if not self._known:
            self.add("machine", {}, {"about": about})

    def reread(self) -> None:
        """Read the file again: another process may have added rows. A line that a crash cut off is removed."""
        text = self.path.read_text(encoding="utf-8") if self.path.exists() else ""
        if text and not text.endswith("\n"):
            self.path.write_text(text[: text.rfind("\n") + 1], encoding="utf-8")
        for row in read_rows(self.path) if text else ():
            if row["stage"] == "machine" and row["about"] != self._about:
                raise ValueError(
                    f"{self.path} has rows of {row['about']}, and this is {self._about}: name another file"
                )
            self._known[_identity(row["stage"], row["key"])] = row

    def known(self, stage: str, key: Row) -> bool:
        """True if the file has this row, measured or failed."""
        return _identity(stage, key) in self._known

    def count(self) -> int:
        """Number of rows of all kinds."""
        return len(self._known)

    def add(self, stage: str, key: Row, figures: Row) -> None:
        """Write a row at once, so that a crash at a later row loses nothing. Raises ValueError for NaN or infinity."""
        row = {"stage": stage, "key": key, **figures}
        try:
            line = json.dumps(row, allow_nan=False) + "\n"
        except ValueError:
            raise ValueError("a figure is NaN or infinite") from None
        self._known[_identity(stage, key)] = row
        with self.path.open("a", encoding="utf-8") as file:
            file.write(line)

    def of(self, stage: str) -> list[Row]:
        """All measured rows of a stage, in the order of measurement."""
        return measured(self._known.values(), stage)

    def failed(self, stage: str) -> list[Row]:
        """All rows of a stage that have no figures. failed: why; fatal: whether it ended its process."""
        return [row for row in self._known.values() if row["stage"] == stage and "failed" in row]

    def unfinished(self) -> list[Row]:
        """All rows "trying" of measurements that have no row, and were not stopped. Their keys hold a stage and a key."""
        tried = [row for row in self._known.values() if row["stage"] == "trying" and "stopped" not in row]
        return [row for row in tried if not self.known(**row["key"])]


def read_rows(path: Path) -> list[Row]:
    """The rows of a file, without a last line that a crash cut off."""
    text = path.read_text(encoding="utf-8")
    return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]


def measured(rows: Iterable[Row], stage: str) -> list[Row]:
    """The rows of a stage that have figures."""
    return [row for row in rows if row["stage"] == stage and "failed" not in row]


def table(header: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """A table in Markdown."""
    return "\n".join(f"| {' | '.join(line)} |" for line in (header, ["---"] * len(header), *lines))


def _identity(stage: str, key: Row) -> str:
    return json.dumps([stage, key], sort_keys=True)
