"""Shows progress on stderr while a build runs: notes, and a bar for each stage. In a pipe, a line every half minute."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from datetime import timedelta
from functools import partial
from time import monotonic

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as Bars
from rich.table import Column

from masklearn.base.printable import one_line
from patch_compile.debug import STAGES, tell, tell_seconds
from patch_compile.errors import SPELLING

Update = Callable[[str, int, int], bool]
"""`update(what, done, total)`: current step of a stage, and its progress in the stage's own unit. True to continue."""

_EVERY = 30.0  # seconds between the lines of a stage in a pipe
_BAR = 8  # width: the line, with its figures, fits into 80 columns
_MEMORY = 3600.0  # seconds: the rate of a phase is measured over the last hour


class Progress:
    """Notes, progress bars, and the seconds that each stage took. every: seconds between the lines in a pipe."""

    def __init__(self, console: Console | None = None, every: float = _EVERY) -> None:
        self.console = console or Console(stderr=True, highlight=False)
        self.notes: list[str] = []
        self.seconds: dict[str, float] = {}
        self._every = every

    def note(self, line: str) -> None:
        """Print a line, and keep it for the report."""
        self.notes.append(line)
        self._say(line)

    @contextmanager
    def stage(self, name: str, phases: Sequence[str] = (), *, bar: bool = True) -> Iterator[Update]:
        """Show a bar while the stage runs. A line with its seconds remains. phases: names of its phases, in their order."""
        begin = monotonic()
        uncut = partial(Column, no_wrap=True)  # however narrow the terminal is
        columns = (
            TextColumn("{task.description} {task.fields[place]}", markup=False, table_column=uncut()),
            BarColumn(_BAR),
            MofNCompleteColumn(table_column=uncut()),
            TimeElapsedColumn(table_column=uncut()),
            TimeRemainingColumn(table_column=uncut()),
            TextColumn("{task.fields[what]}", markup=False, table_column=uncut(ratio=1)),
        )
        bars = Bars(
            *columns, console=self.console, transient=True, expand=True, speed_estimate_period=_MEMORY
        )
        stage = Stage(bars, name, phases)
        display = bars if self.console.is_terminal else self._lines(stage)
        with tell_seconds(name), display if bar else nullcontext():
            yield stage.update
        self.seconds[name] = round(monotonic() - begin, 1)
        self.console.print(f"{name}: {self.seconds[name]} s", markup=False)

    @contextmanager
    def _lines(self, stage: Stage) -> Iterator[None]:
        ended = threading.Event()

        def speak() -> None:
            while not ended.wait(self._every):
                self._say(stage.line())

        speaker = threading.Thread(target=speak, daemon=True)
        speaker.start()
        try:
            yield
        finally:
            ended.set()
            speaker.join()

    def _say(self, line: str) -> None:
        self.console.print(one_line(SPELLING.get()(line)), markup=False, soft_wrap=True)


class Stage:
    """A stage. Its phases, such as reading text and solving, have units of their own, and its clocks are of the phase."""

    def __init__(self, bars: Bars, name: str, phases: Sequence[str]) -> None:
        self.bars, self._phases, self._number = bars, phases, 0
        self._id = bars.add_task(name, total=None, what="", place="")

    def update(self, what: str, done: int, total: int) -> bool:
        """See `Update`. A new phase begins with other units, or with fewer of them done."""
        task, what = self._task, one_line(what)
        if task.total is not None and (total != task.total or done < task.completed):
            tell(STAGES, f"{task.description}: {task.fields['what']} took {task.elapsed or 0.0:.2f} s")
            self.bars.reset(self._id, total=total)
        name = re.split("[,:]", what)[0]  # solving, of `solving, output error 0.014`
        if name in self._phases:
            self._number = self._phases.index(name) + 1
        place = f"{self._number}/{len(self._phases)}" if self._number else ""
        self.bars.update(self._id, completed=done, total=total, what=what, place=place)
        return True

    def line(self) -> str:
        """Returns the state of the stage as a line for a log."""
        task = self._task
        place = f"phase {task.fields['place'].replace('/', ' of ')}: " if self._number else ""
        count = "" if task.total is None else f"{task.completed:.0f} of {task.total:.0f}"
        left = task.time_remaining
        parts = [place + task.fields["what"], count, f"{_span(task.elapsed or 0.0)} so far"]
        return f"{task.description}: " + ", ".join(
            filter(None, [*parts, "" if left is None else f"about {_span(left)} left"])
        )

    @property
    def _task(self) -> Task:
        return self.bars.tasks[0]


def _span(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))


def quiet_libraries(texts: Iterable[str | None] = (), *, hubs: bool = False) -> None:
    """Silence progress bars and warnings of libraries, which a user would take for output of patch-compile.

    Hubs are blocked unless `hubs`, or one of the texts is a dataset on a hub.
    """
    from masklearn import open_text
    from masklearn.model.hub import block_hubs

    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    block_hubs(not hubs and not any(text is not None and open_text(text).on_hub for text in texts))
