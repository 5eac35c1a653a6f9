"""Shows progress on stderr while a build runs: notes, and a bar for each stage. In a pipe, a line every half minute."""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

from rich.console import Console
from rich.progress import BarColumn, ProgressColumn, Task, TextColumn
from rich.progress import Progress as Bars
from rich.table import Column
from rich.text import Text

from masklearn.base.printable import one_line
from patch_compile.debug import STAGES, tell, tell_seconds
from patch_compile.errors import SPELLING

Update = Callable[[str, int, int], bool]
"""`update(what, done, total)`: current step of a stage, and its progress in the stage's own unit. True to continue."""

_EVERY = 30.0  # seconds between the lines of a stage in a pipe
_BAR = 8  # width: the line, with its figures, fits into 80 columns


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
    def stage(self, name: str, ahead: Mapping[str, str] | None = None) -> Iterator[Update]:
        """Show a bar while the stage runs. A line with its seconds remains. ahead: see `StageClock`."""
        clock = StageClock(ahead or {})
        shown = self._bar if self.console.is_terminal else self._lines
        with tell_seconds(name), shown(name, clock) as update:
            yield update
        for phase, seconds in clock.phases():
            tell(STAGES, f"{name}: {phase} took {seconds:.2f} s")
        self.seconds[name] = round(clock.seconds, 1)
        self.console.print(f"{name}: {self.seconds[name]} s", markup=False)

    @contextmanager
    def _bar(self, name: str, clock: StageClock) -> Iterator[Update]:
        note = TextColumn(
            "{task.fields[clock].what}", markup=False, table_column=Column(ratio=1, no_wrap=True)
        )
        columns = (
            _Kept("{task.description} {task.fields[clock].place}"),
            BarColumn(_BAR),
            _Kept("{task.fields[clock].count}"),
            _Left(),
            note,
        )
        with Bars(*columns, console=self.console, transient=True, expand=True) as bars:
            task = bars.add_task(name, total=None, clock=clock)

            def update(what: str, done: int, total: int) -> bool:
                clock.update(what, done, total)
                bars.update(task, completed=done, total=total)
                return True

            yield update

    @contextmanager
    def _lines(self, name: str, clock: StageClock) -> Iterator[Update]:
        ended = threading.Event()

        def speak() -> None:
            while not ended.wait(self._every):
                self._say(f"{name}: {clock.line()}")

        speaker = threading.Thread(target=speak, daemon=True)
        speaker.start()
        try:
            yield clock.update
        finally:
            ended.set()
            speaker.join()

    def _say(self, line: str) -> None:
        self.console.print(one_line(SPELLING.get()(line)), markup=False, soft_wrap=True)


@dataclass
class _Phase:
    """A phase of a stage. begin, updated: times of its begin and of its last update; first: units done at its first update,
    and the time of that."""

    what: str
    total: int
    begin: float
    first: tuple[int, float]
    done: int = 0
    step: int = 0  # units of the last update
    updated: float = 0.0

    def seconds_each(self) -> float:
        """Returns the seconds of a unit, measured from the first update on: a resumed run begins at some later unit."""
        units, since = self.first
        if self.done > units:
            return (self.updated - since) / (self.done - units)
        return (self.updated - self.begin) / self.done if self.done else 0.0

    def whole(self) -> float:
        """Returns the seconds of all units."""
        return self.total * self.seconds_each()

    def left(self, now: float) -> float:
        """Returns the seconds that remain. While a unit takes longer than those before, only it is overdue."""
        each, units = self.seconds_each(), max(self.total - self.done, 0)
        return max(units * each - (now - self.updated), max(units - self.step, 0) * each)


class StageClock:
    """Time that a stage takes, and time that is left, measured phase by phase.

    The work of a stage comes in phases, such as reading text and solving, with their own units. ahead: names of
    phases that are known to come, in their order, each with the phase that it takes at least as long as, or "". Their
    time is not known before they begin: until the last of them has begun, only the least time that is left is known.
    """

    def __init__(
        self, ahead: Mapping[str, str] | None = None, now: Callable[[], float] = time.monotonic
    ) -> None:
        self._now, self._begin = now, now()
        self._ahead = dict(ahead or {})
        self._total = len(self._ahead)
        self._phases: dict[str, _Phase] = {}
        self._phase: _Phase | None = None

    @property
    def what(self) -> str:
        """The current step, in words."""
        if self._awaited:
            return self._awaited
        return self._phase.what if self._phase else ""

    @property
    def place(self) -> str:
        """The number of the current phase and of all phases, such as 2/4; empty if the coming phases are not known.

        The number of all phases never changes: a phase that is not needed leaves its number out, and a phase that was not
        known to come counts as part of the phase before it.
        """
        if not self._phase or not self._total:
            return ""
        return f"{self._total - len(self._ahead) + bool(self._awaited)}/{self._total}"

    @property
    def count(self) -> str:
        """Units done and in all of the current phase, empty if they are not known yet."""
        return f"{self._phase.done}/{self._phase.total}" if self._phase and not self._awaited else ""

    @property
    def seconds(self) -> float:
        """Seconds of the stage so far."""
        return self._now() - self._begin

    @property
    def phase_seconds(self) -> float:
        """Seconds of the current phase so far."""
        if self._phase is None:
            return self.seconds
        return self._now() - (self._phase.updated if self._awaited else self._phase.begin)

    def phases(self) -> Iterator[tuple[str, float]]:
        """Yield the phases so far, each with the seconds from its begin to its last update."""
        yield from ((name, phase.updated - phase.begin) for name, phase in self._phases.items())

    def update(self, what: str, done: int, total: int) -> bool:
        """See `Update`."""
        now, what = self._now(), one_line(what)
        name = _phase_name(what)
        if self._total and not self._phases and name not in self._ahead:
            self._total += 1  # such as reading text, which a resumed run skips
        phase = self._find(what, done, total, now)
        phase.step = max(done - phase.done, 0)
        phase.what, phase.done, phase.total, phase.updated = what, done, total, now
        self._phase = phase
        names = list(self._ahead)
        for begun in names[: names.index(name) + 1] if name in names else ():
            del self._ahead[begun]
        return True

    def left(self) -> tuple[float, bool] | None:
        """Returns the seconds left of the stage, and True if this is a lower bound; None while nothing is known."""
        phase = self._phase
        if phase is None or not phase.done:
            return None
        least = sum(self._phases[name].whole() for name in self._ahead.values() if name in self._phases)
        left = least - self.phase_seconds if self._awaited else least + phase.left(self._now())
        return None if self._ahead and left < 1 else (left, bool(self._ahead))

    def line(self) -> str:
        """Returns the state of the stage as a line for a log."""
        place = f"phase {self.place.replace('/', ' of ')}: " if self.place else ""
        parts = [place + self.what, self.count.replace("/", " of "), f"{_span(self.phase_seconds)} so far"]
        if left := self.left():
            parts.append(f"{'at least' if left[1] else 'about'} {_span(left[0])} left")
        return ", ".join(filter(None, parts))

    @property
    def _awaited(self) -> str:
        """The phase that has begun but not reported yet: the next of those ahead once the phase before is complete."""
        phase = self._phase
        return next(iter(self._ahead), "") if phase and phase.done >= phase.total else ""

    def _find(self, what: str, done: int, total: int, now: float) -> _Phase:
        """Returns the phase of an update: the current phase, an earlier phase that goes on, or a new phase.

        A step may have another name each time. A new phase begins where the phase before ended, for its first update comes
        after its first unit.
        """
        current, name = self._phase, _phase_name(what)
        seen = self._phases.get(name)
        if current and done >= current.done and (total == current.total or seen is current):
            return current
        if seen is not None and seen.done <= done:
            return seen
        begin = current.updated if current and done else now
        if current is None:
            begin = self._begin
        self._phases[name] = _Phase(what, total, begin, (done, now))
        return self._phases[name]


def _phase_name(what: str) -> str:
    """Returns the name that a step begins with: solving, of `solving, output error 0.014`."""
    return re.split("[,:]", what)[0]


class _Kept(TextColumn):
    """Text that is never cut, however narrow the terminal is."""

    def __init__(self, text: str) -> None:
        super().__init__(text, markup=False, table_column=Column(no_wrap=True))


class _Left(ProgressColumn):
    """Time of the current phase, and the time that is left of the stage."""

    def __init__(self) -> None:
        super().__init__(table_column=Column(no_wrap=True))

    def render(self, task: Task) -> Text:
        clock: StageClock = task.fields["clock"]
        said, left = _span(clock.phase_seconds), clock.left()
        return Text(said if left is None else f"{said}, {_span(left[0])}{'+' * left[1]} left")


def _span(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))


def quiet_libraries(texts: Iterable[str | None] = ()) -> None:
    """Silence progress bars and warnings of libraries, which a user would take for output of patch-compile.

    Hubs are blocked unless one of the texts is a dataset on a hub.
    """
    from masklearn import open_text
    from masklearn.model.hub import block_hubs

    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    block_hubs(not any(text is not None and open_text(text).on_hub for text in texts))
