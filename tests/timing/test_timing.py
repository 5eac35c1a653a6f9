"""Taking turns: the order of runs, the times that count, and the statistics."""

from functools import partial

import numpy as np
import pytest

from patch_compile.artifacts.bench import Phase, Timed
from patch_compile.timing.timing import TurnTimes, take_turns


class Scripted:
    """A runner that returns given times and records the order of calls."""

    def __init__(self, name: str, log: list[str], drift: list[float], base: float) -> None:
        self.name, self.log, self.drift, self.base = name, log, drift, base

    def refuses(self, make):
        return ""

    def prepare(self, make, phase):
        self.log.append(f"{self.name} prepared for {phase}")

    def run(self):
        self.log.append(self.name)
        self.drift[0] += 0.01  # the machine becomes slower all the time
        return self.base * self.drift[0]

    def close(self):
        pass


def turns(count: int, warm_up: int, names: str = "abc"):
    log: list[str] = []
    drift, seen = [1.0], []
    runners = {
        name: Scripted(name, log, drift, base) for name, base in zip(names, (2.0, 1.0, 4.0), strict=False)
    }
    found = take_turns(
        runners, dict, Phase.DECODE, iterations=count, warm_up=warm_up, after_round=partial(seen.append, 0)
    )
    return found, log, seen


def test_rounds_rotate_the_first_model():
    _, log, seen = turns(3, 1)
    assert log[:3] == [f"{name} prepared for decode" for name in "abc"]
    rounds = ["".join(log[3 + 6 * i : 9 + 6 * i]) for i in range(4)]
    assert sorted(rounds[0]) == list("aabbcc")  # rounds of the warm-up
    assert rounds[1:] == ["aabbcc", "bbccaa", "ccaabb"]
    assert len(seen) == 3


def test_drift_cancels_out_of_the_ratio():
    """The machine is four times slower at the end, and the ratio of the models stays the same."""
    found, _, _ = turns(60, 0, "ab")
    assert len(found["a"].milliseconds) == 60
    assert found["a"].milliseconds[-1] > 3 * found["a"].milliseconds[0]
    assert found["a"].median / found["b"].median == pytest.approx(2.0, rel=0.01)
    low, high = found["a"].over(found["b"])
    assert low == pytest.approx(2.0, rel=0.03) and high == pytest.approx(2.0, rel=0.03)


def test_median_and_percentiles():
    row = TurnTimes(tuple(np.arange(1.0, 12.0))).row()
    assert row == Timed(median_ms=6.0, p10_ms=2.0, p90_ms=10.0, runs=11)
