"""Times several models in turns, so that other work and the drift of clocks affect all of them alike."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from patch_compile.artifacts.bench import Phase, Timed
from patch_compile.timing.points import MakeFeed

__all__ = ["TimedModel", "TurnTimes", "take_turns"]


class TimedModel(Protocol):
    """A loaded model, ready to be timed: an engine on a GPU, or an ONNX file in ONNX Runtime."""

    def refuses(self, make: MakeFeed) -> str:
        """Returns the reason why it can't run on these inputs, in words, empty if it can."""

    def prepare(self, make: MakeFeed, phase: Phase) -> None:
        """Make the inputs and put them where the model reads them. `run` then runs on them."""

    def run(self) -> float:
        """Returns the milliseconds of one run, without the copying of inputs."""

    def close(self) -> None:
        """Free everything that it holds."""


@dataclass(frozen=True)
class TurnTimes:
    """Milliseconds of all timed runs, in their order.

    Runs of several models at one index belong to one round: they ran one after another.
    """

    milliseconds: tuple[float, ...]

    @property
    def median(self) -> float:
        """Returns the median in milliseconds."""
        return float(np.median(self.milliseconds))

    def row(self) -> Timed:
        """Returns the summary for bench.json."""
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

    Every runner has one turn in a round. Each round begins with another runner, so none always follows the same one. In
    a turn a model runs twice, and the second run counts: during the first, the caches are still full of another model's
    data, which never happens in use. after_round: called after each timed round, as soon as its last run is done.
    """
    for runner in runners.values():
        runner.prepare(make, phase)
    names = list(runners)
    found: dict[str, list[float]] = {name: [] for name in names}
    for number in range(-warm_up, iterations):
        first = number % len(names)
        times = {name: _turn(runners[name]) for name in (*names[first:], *names[:first])}
        if number >= 0:
            after_round()
            for name, milliseconds in times.items():
                found[name].append(milliseconds)
    return {name: TurnTimes(tuple(times)) for name, times in found.items()}


def _turn(runner: TimedModel) -> float:
    runner.run()
    return runner.run()
