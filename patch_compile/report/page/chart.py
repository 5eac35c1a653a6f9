"""Shared parts of the charts: a drawing area in pixels, axes with round ticks, and paths."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from patch_compile.report.page.spelling import percent

__all__ = [
    "BOTTOM",
    "HEIGHT",
    "LEFT",
    "RIGHT",
    "TOP",
    "WIDTH",
    "Axis",
    "decades",
    "percent_ticks",
    "round_ticks",
]

WIDTH, HEIGHT = 720, 260
LEFT, RIGHT, TOP, BOTTOM = 56, 12, 16, 40
_STEPS = (1.0, 2.0, 2.5, 5.0, 10.0)


@dataclass(frozen=True)
class Axis:
    """Maps values low … high to pixels first … last. log: maps their logarithms."""

    low: float
    high: float
    first: float
    last: float
    log: bool = False

    def __call__(self, value: float) -> float:
        """Returns the pixel of a value, to a tenth."""
        low, high, value = (math.log(v) if self.log else v for v in (self.low, self.high, value))
        return round(self.first + (self.last - self.first) * (value - low) / ((high - low) or 1.0), 1)


def round_ticks(high: float, about: int = 4) -> list[float]:
    """Returns 0 and multiples of 1, 2, 2.5 or 5 times a power of ten, up to the first that reaches `high`."""
    if high <= 0.0:
        return [0.0, 1.0]
    power = 10.0 ** math.floor(math.log10(high / about))
    step = next(one * power for one in _STEPS if one * power * about >= high * 0.999)
    return [step * i for i in range(math.ceil(high / step - 1e-9) + 1)]


def percent_ticks(ticks: list[float], y: Axis) -> list[tuple[float, str]]:
    """Returns pixel and text of each tick, with as many digits as distinguish neighbours."""
    step = ticks[1] * 100
    digits = next(d for d in range(8) if abs(round(step, d) - step) < 1e-6 * step)
    return [(y(value), percent(value, digits)) for value in ticks]


def decades(low: float, high: float) -> Iterable[float]:
    """Returns powers of ten in low … high; if there are fewer than three, also 2 and 5 times powers of ten."""
    exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    powers = [10.0**one for one in exponents if low <= 10.0**one <= high]
    if len(powers) >= 3:
        step = math.ceil(len(powers) / 9)
        return powers[::step]
    return [v for e in exponents for v in (10.0**e, 2 * 10.0**e, 5 * 10.0**e) if low <= v <= high]
