"""Watches a GPU's clocks during a benchmark."""

from __future__ import annotations

from collections.abc import Callable
from statistics import median

from patch_compile.artifacts.bench import ClockRanges, Clocks, ClockSample, Spread
from patch_compile.hardware.nvml import Sample

__all__ = ["Watch"]


class Watch:
    """Samples of the GPU's clocks before, during and after the timing. read: takes one sample."""

    def __init__(self, read: Callable[[], Sample]) -> None:
        self._read = read
        self._before = read()
        self._during: list[Sample] = []

    def look(self) -> None:
        """Take a sample while the GPU is busy, or just after."""
        self._during.append(self._read())

    def clocks(self) -> Clocks:
        """Returns a summary of all samples, and a last sample taken now."""
        return Clocks(
            before=ClockSample(**vars(self._before)),
            during=_ranges(self._during) if self._during else None,
            after=ClockSample(**vars(self._read())),
            samples=len(self._during),
            slowed=tuple(dict.fromkeys(reason for sample in self._during for reason in sample.slowed)),
        )


def _ranges(samples: list[Sample]) -> ClockRanges:
    def spread(name: str) -> Spread:
        values = [getattr(sample, name) for sample in samples]
        return Spread(min=min(values), median=median(values), max=max(values))

    return ClockRanges(**{name: spread(name) for name in ClockRanges.model_fields})
