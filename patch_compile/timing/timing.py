"""Times several models in turns, so that other work and the drift of clocks affect all of them alike."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from patch_compile.artifacts.bench import Phase, Timed
from patch_compile.errors import PatchCompileError
from patch_compile.python_process import ProcessEnded, PythonProcess
from patch_compile.timing.points import MakeFeed


class TimedModel(Protocol):
    """A loaded model, ready to be timed."""

    def refuses(self, make: MakeFeed) -> str:
        """Returns the reason why it can't run on these inputs, in words, empty if it can."""

    def prepare(self, make: MakeFeed, phase: Phase) -> None:
        """Make the inputs and put them where the model reads them. `run` then runs on them."""

    def run(self) -> float:
        """Returns the milliseconds of one run, without the copying of inputs."""

    def close(self) -> None:
        """Free everything that it holds."""


class OwnProcess:
    """A model in its own process, where `open_runner` loads it. Models take turns: one process works at a time.

    Two engines can't always share a process: each may need its own PatchLinear plugin, and TensorRT takes only one of each
    name.

    name: name of the model, in words. Raises PatchCompileError as `open_runner` does, and if the process ends.
    """

    def __init__(self, name: str, open_runner: Callable[[], TimedModel]) -> None:
        self._name = f"the {name} model"
        with self._errors():
            self._process = PythonProcess(self._name, open_runner)

    def refuses(self, make: MakeFeed) -> str:
        return str(self._ask("refuses", make))

    def prepare(self, make: MakeFeed, phase: Phase) -> None:
        self._ask("prepare", make, phase)

    def run(self) -> float:
        return float(self._ask("run"))

    def close(self) -> None:
        self._process.close()

    def _ask(self, method: str, *arguments: object) -> Any:
        with self._errors():
            return self._process.ask(method, *arguments)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except ProcessEnded as ended:
            raise PatchCompileError(
                f"The process that ran {self._name} ended",
                f"Its exit code is {ended.code}. A machine without free memory ends processes with -9.",
                "Time fewer models at once (`--against dense`), or smaller batches and prompts.",
            ) from None


@dataclass(frozen=True)
class TurnTimes:
    """Milliseconds of all timed runs, in their order.

    Runs of several models at one index belong to one round: they ran one after another.
    """

    milliseconds: tuple[float, ...]

    @property
    def median(self) -> float:
        return float(np.median(self.milliseconds))

    def row(self) -> Timed:
        low, high = np.percentile(self.milliseconds, (10, 90))
        return Timed(
            median_ms=self.median, p10_ms=float(low), p90_ms=float(high), runs=len(self.milliseconds)
        )

    def over(self, other: TurnTimes) -> tuple[float, float]:
        """Returns the 10th and 90th percentile of the ratio of this time to the other's, by rounds."""
        low, high = np.percentile(np.divide(self.milliseconds, other.milliseconds), (10, 90))
        return float(low), float(high)


def take_turns(
    runners: Mapping[str, TimedModel],
    make: MakeFeed,
    phase: Phase,
    *,
    iterations: int,
    warm_up: int,
    after_round: Callable[[], object] = lambda: None,
) -> dict[str, TurnTimes]:
    """Time each runner `iterations` times on the same inputs, after `warm_up` runs that do not count.

    Every runner has one turn in a round. Each round begins with another runner, so no runner always follows the same runner.
    In a turn a model runs twice, and the second run counts: during the first, the caches are still full of another model's
    data, which never happens in use. after_round: called after each timed round, as soon as its last run is done.
    """
    for runner in runners.values():
        runner.prepare(make, phase)
    names = list(runners)
    timed: dict[str, list[float]] = {name: [] for name in names}
    for number in range(-warm_up, iterations):
        first = number % len(names)
        times = {name: _turn(runners[name]) for name in (*names[first:], *names[:first])}
        if number >= 0:
            after_round()
            for name, milliseconds in times.items():
                timed[name].append(milliseconds)
    return {name: TurnTimes(tuple(times)) for name, times in timed.items()}


def _turn(runner: TimedModel) -> float:
    runner.run()
    return runner.run()
