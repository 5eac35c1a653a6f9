"""Watches a GPU's clocks during a benchmark. Times are doubtful if the clocks moved."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import fields
from statistics import median
from typing import Any

from patch_compile.hardware.nvml import Sample

__all__ = ["Watch"]

_STEADY = 0.03  # share of the median clock; a larger movement shows in the times


class Watch:
    """Samples of the GPU's clocks before, during and after the timing. read: takes one sample."""

    def __init__(self, read: Callable[[], Sample]) -> None:
        self._read = read
        self._before = read()
        self._during: list[Sample] = []

    def look(self) -> None:
        """Take a sample while the GPU is busy, or just after."""
        self._during.append(self._read())

    def row(self) -> dict[str, Any]:
        """Returns the row of bench.json: a summary of all samples, and a last sample taken now."""
        numbers = [field.name for field in fields(Sample) if field.name != "slowed"]
        return {
            "before": self._before.row(),
            "during": {name: _spread([getattr(s, name) for s in self._during]) for name in numbers},
            "after": self._read().row(),
            "samples": len(self._during),
            "slowed": list(self._slowed()),
        }

    def warnings(self) -> Iterator[str]:
        """Yield warnings about clocks that make the times doubtful, in words."""
        for name, what in (("sm_mhz", "SM"), ("memory_mhz", "memory")):
            seen = [getattr(sample, name) for sample in self._during]
            moved = (max(seen) - min(seen)) / median(seen) if seen else 0.0
            if moved > _STEADY:
                lock = "--lock-gpu-clocks" if name == "sm_mhz" else "--lock-memory-clocks"
                yield (
                    f"the {what} clock moved by {moved:.0%} while times were taken ({min(seen)} … {max(seen)} MHz); the "
                    f"models took turns, so their ratios hold better than the times: lock it with nvidia-smi {lock}"
                )
        if slowed := self._slowed():
            yield f"the GPU's clocks were held down while times were taken, by {', '.join(slowed)}"

    def _slowed(self) -> dict[str, None]:
        return dict.fromkeys(word for sample in self._during for word in sample.slowed)


def _spread(values: list[float]) -> dict[str, float] | None:
    return {"min": min(values), "median": median(values), "max": max(values)} if values else None
