"""Times of several models, taken in turns: what a machine does meanwhile, and the drift of its clocks, hits all alike."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from patch_compile.bench.points import MakeFeed, Phase

__all__ = ["Runner", "Times", "take_turns"]


class Runner(Protocol):
    """A model that is loaded, ready to be timed: an engine on a GPU, or an ONNX file in ONNX Runtime."""

    def refuses(self, make: MakeFeed) -> str:
        """Why it can't run on these inputs, in words; empty where it can."""

    def prepare(self, make: MakeFeed, phase: Phase) -> None:
        """Make the inputs and put them where the model reads them; `run` is then one run on them."""

    def run(self) -> float:
        """Milliseconds of one run, without putting the inputs there."""

    def close(self) -> None:
        """Give back what it holds."""


@dataclass(frozen=True)
class Times:
    """Milliseconds of every timed run, in their order: those of several models at one place were taken one after another."""

    milliseconds: tuple[float, ...]

    @property
    def median(self) -> float:
        """Of all runs."""
        return float(np.median(self.milliseconds))

    def row(self) -> dict[str, float]:
        """For bench.json."""
        low, high = np.percentile(self.milliseconds, (10, 90))
        return {
            "median_ms": self.median,
            "p10_ms": float(low),
            "p90_ms": float(high),
            "runs": len(self.milliseconds),
        }

    def over(self, other: Times) -> tuple[float, float]:
        """10th and 90th percentile of this time over the other's, of runs of one round."""
        low, high = np.percentile(np.divide(self.milliseconds, other.milliseconds), (10, 90))
        return float(low), float(high)


def take_turns(
    runners: Mapping[str, Runner],
    make: MakeFeed,
    phase: Phase,
    *,
    iterations: int,
    warm_up: int,
    after_round: Callable[[], object] = lambda: None,
) -> dict[str, Times]:
    """Time each runner `iterations` times on the same inputs, after `warm_up` runs that do not count.

    In a round each has a turn, and the next round begins with another, so none always comes after the same one. In a turn a
    model runs twice, and the second run counts: the first finds the caches full of another model, as in use it never does.
    after_round: called after each timed round, as soon as the last run is done.
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
    return {name: Times(tuple(times)) for name, times in found.items()}


def _turn(runner: Runner) -> float:
    runner.run()
    return runner.run()
