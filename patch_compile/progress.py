"""What a person sees while a build runs: notes and one bar per stage on stderr; a line per stage in a pipe."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

__all__ = ["Progress", "Update", "quiet_libraries"]

Update = Callable[[str, int, int], bool]
"""`update(what, done, total)`: what a stage is at and how far, in steps of its own; True to go on."""


class Progress:
    """Notes, bars and the seconds that each stage took."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(stderr=True, highlight=False)
        self.notes: list[str] = []
        self.seconds: dict[str, float] = {}

    def note(self, line: str) -> None:
        """Say one line, and keep it for the report."""
        self.notes.append(line)
        self.console.print(line, markup=False, soft_wrap=True)

    @contextmanager
    def stage(self, name: str) -> Iterator[Update]:
        """A bar that is there while the stage runs; a line with its seconds stays."""
        start = time.monotonic()
        with self._bar(name) as update:
            yield update
        self.seconds[name] = round(time.monotonic() - start, 1)
        self.console.print(f"{name}: {self.seconds[name]} s", markup=False)

    @contextmanager
    def _bar(self, name: str) -> Iterator[Update]:
        if not self.console.is_terminal:
            yield _ignore
            return
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
        )
        with Bars(*columns, console=self.console, transient=True) as bars:
            task = bars.add_task(name, total=None, note="")

            def update(what: str, done: int, total: int) -> bool:
                bars.update(task, completed=done, total=total, note=what)
                return True

            yield update


def quiet_libraries(texts: Iterable[str | None] = ()) -> None:
    """Their bars and warnings would be taken for ours; nothing may reach a hub unless one of the texts is a dataset."""
    from masklearn.text import open_text

    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    if not any(text is not None and open_text(text).on_hub for text in texts):
        os.environ["HF_HUB_OFFLINE"] = "1"


def _ignore(_what: str, _done: int, _total: int) -> bool:
    """In a pipe a bar would be noise: the line with the stage's seconds is enough."""
    return True
