"""Shared parts of the charts: a drawing area in pixels, axes with round ticks, and paths."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from patch_compile.report.page.number_format import number, percent

__all__ = [
    "BOTTOM",
    "HEIGHT",
    "LEFT",
    "RIGHT",
    "TOP",
    "WIDTH",
    "Scale",
    "decades",
    "linear_axis",
    "loss_axis",
    "number_ticks",
    "percent_ticks",
    "round_ticks",
    "ticks_within",
]

WIDTH, HEIGHT = 720, 260
LEFT, RIGHT, TOP, BOTTOM = 56, 12, 16, 40
# Largest over smallest loss that still gets a linear axis: above it the low end would be flat.
_LOGARITHMIC = 6.0
_LOSS_MARGIN = 0.12
_STEPS = (1.0, 2.0, 2.5, 5.0, 10.0)


@dataclass(frozen=True)
class Scale:
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


def round_ticks(high: float) -> list[float]:
    """Returns 0 and multiples of 1, 2, 2.5 or 5 times a power of ten, up to the first that reaches `high`."""
    if high <= 0.0:
        return [0.0, 1.0]
    step = _step(high, 4)
    return [step * i for i in range(math.ceil(high / step - 1e-9) + 1)]


def ticks_within(low: float, high: float) -> list[float]:
    """Returns the multiples of 1, 2, 2.5 or 5 times a power of ten that lie in low … high."""
    step = _step(high - low, 5)
    return [step * i for i in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def _step(span: float, about: int) -> float:
    """Returns the smallest round step of which `about` cover the span."""
    power = 10.0 ** math.floor(math.log10(span / about))
    return next(one * power for one in _STEPS if one * power * about >= span * 0.999)


def percent_ticks(ticks: list[float], y: Scale) -> list[tuple[float, str]]:
    """Returns pixel and text of each tick, with as many digits as distinguish neighbours."""
    digits = _digits(ticks[1] * 100)
    return [(y(value), percent(value, digits)) for value in ticks]


def number_ticks(ticks: list[float], axis: Scale) -> list[tuple[float, str]]:
    """Returns pixel and text of each tick of `ticks_within`, with as many digits as distinguish neighbours."""
    digits = _digits(ticks[1] - ticks[0])
    return [(axis(value), f"{value:,.{digits}f}".replace("-", "−")) for value in ticks]


def _digits(step: float) -> int:
    """Returns the decimal places that a step of a chart's axis needs."""
    return next(digits for digits in range(20) if abs(round(step, digits) - step) < 1e-6 * step)


def decades(low: float, high: float) -> Iterable[float]:
    """Returns powers of ten in low … high; if there are fewer than three, also 2 and 5 times powers of ten."""
    exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    powers = [10.0**one for one in exponents if low <= 10.0**one <= high]
    if len(powers) >= 3:
        step = math.ceil(len(powers) / 9)
        return powers[::step]
    return [v for e in exponents for v in (10.0**e, 2 * 10.0**e, 5 * 10.0**e) if low <= v <= high]


def loss_axis(losses: Sequence[float], first: float, last: float) -> tuple[Scale, list[tuple[float, str]]]:
    """Returns an axis and its ticks. It is logarithmic if the losses are far apart."""
    low, high = min(losses), max(losses)
    if low > 0 and high / low > _LOGARITHMIC:
        wider = (high / low) ** _LOSS_MARGIN
        axis = Scale(low / wider, high * wider, first, last, log=True)
        return axis, [(axis(value), number(value, 1)) for value in decades(axis.low, axis.high)]
    return linear_axis(losses, _LOSS_MARGIN, first, last)


def linear_axis(
    values: Sequence[float], margin: float, first: float, last: float
) -> tuple[Scale, list[tuple[float, str]]]:
    """Returns an axis with a margin beside the values, without ticks below 0 if no value is."""
    low, high = min(values), max(values)
    wider = margin * (high - low or abs(high) or 1.0)
    axis = Scale(low - wider, high + wider, first, last)
    start = axis.low if low < 0 else max(axis.low, 0.0)
    return axis, number_ticks(ticks_within(start, axis.high), axis)
