"""Shows progress on stderr while a build runs: notes, and a bar for each stage. In a pipe a line for each stage."""

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
"""`update(what, done, total)`: current step of a stage, and its progress in the stage's own unit. True to continue."""


class Progress:
    """Notes, progress bars, and the seconds that each stage took."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(stderr=True, highlight=False)
        self.notes: list[str] = []
        self.seconds: dict[str, float] = {}

    def note(self, line: str) -> None:
        """Print a line, and keep it for the report."""
        self.notes.append(line)
        self.console.print(line, markup=False, soft_wrap=True)

    @contextmanager
    def stage(self, name: str) -> Iterator[Update]:
        """Show a bar while the stage runs. A line with its seconds remains."""
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
    """Silence progress bars and warnings of libraries, which a user would take for those of patch-compile.

    Hubs are blocked unless one of the texts is a dataset on a hub.
    """
    from masklearn.text import open_text

    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    if not any(text is not None and open_text(text).on_hub for text in texts):
        os.environ["HF_HUB_OFFLINE"] = "1"


def _ignore(_what: str, _done: int, _total: int) -> bool:
    """Show nothing: in a pipe a bar is noise, and the line with the stage's seconds is enough."""
    return True
