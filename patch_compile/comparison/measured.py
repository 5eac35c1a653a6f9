"""Speeds that were measured on one GPU, at sizes that all builds were timed at."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from patch_compile.artifacts.bench import BenchReport, Phase
from patch_compile.artifacts.compare import LeftOut, LeftOutKind, MeasuredSpeeds, TimedPlace, TimedSize
from patch_compile.comparison.builds import ComparedBuild

__all__ = ["Measured", "measured_speeds"]


@dataclass(frozen=True)
class Measured:
    """Measured speed-ups.

    speeds: speed-up by phase, and by the name of each build that was timed there; shared: the place, and the size of each
    phase; left_out: times that can't be compared.
    """

    speeds: Mapping[Phase, Mapping[str, float]]
    shared: MeasuredSpeeds
    left_out: tuple[LeftOut, ...]

    def of_all(self, phase: Phase, builds: Sequence[ComparedBuild]) -> bool:
        """Returns True if every build was timed in a phase."""
        return all(build.name in self.speeds.get(phase, {}) for build in builds)


def measured_speeds(builds: Sequence[ComparedBuild]) -> Measured:
    """Returns the speed-ups over the dense model of builds timed as engines on one GPU, at one size for each phase."""
    timed = {build.name: build.bench for build in builds if build.bench is not None}
    engines = {name: bench for name, bench in timed.items() if bench.runner.on_gpu}
    left_out = []
    if on_cpu := tuple(name for name in timed if name not in engines):
        left_out.append(LeftOut(kind=LeftOutKind.TIMED_ON_CPU, builds=(on_cpu,)))
    places: dict[TimedPlace, list[str]] = {}
    for name, bench in engines.items():
        places.setdefault(_place(bench), []).append(name)
    if len(places) > 1:
        names = tuple(map(tuple, places.values()))
        left_out.append(LeftOut(kind=LeftOutKind.TIMED_ELSEWHERE, builds=names, places=tuple(places)))
        return Measured({}, MeasuredSpeeds(place=None, sizes={}), tuple(left_out))
    sizes = dict(_common(list(engines.values())))
    if engines and not sizes:
        left_out.append(LeftOut(kind=LeftOutKind.TIMED_AT_OTHER_SIZES, builds=(tuple(engines),)))
    speeds = {
        phase: {name: _speed(bench, phase, size) for name, bench in engines.items()}
        for phase, size in sizes.items()
    }
    return Measured(speeds, MeasuredSpeeds(place=next(iter(places), None), sizes=sizes), tuple(left_out))


def _place(bench: BenchReport) -> TimedPlace:
    return TimedPlace(device=bench.device.name, library=bench.runner, version=bench.device.backend_version)


def _common(benches: Sequence[BenchReport]) -> Iterator[tuple[Phase, TimedSize]]:
    """Yield each phase, with the smallest size that all benchmarks have."""
    for phase in Phase:
        each = [{_size(bench, i) for i in _timed_in(bench, phase)} for bench in benches]
        shared = set.intersection(*each) if each else set()
        if shared:
            yield phase, min(shared, key=lambda size: (size.batch, size.tokens or 0))


def _timed_in(bench: BenchReport, phase: Phase) -> Iterator[int]:
    """Yield the indices of the rows of a phase that have a speed-up."""
    yield from (i for i, row in enumerate(bench.rows) if row.phase is phase and row.speedup)


def _size(bench: BenchReport, row: int) -> TimedSize:
    return TimedSize(batch=bench.rows[row].batch, tokens=bench.rows[row].tokens)


def _speed(bench: BenchReport, phase: Phase, size: TimedSize) -> float:
    found = (bench.rows[i].speedup for i in _timed_in(bench, phase) if _size(bench, i) == size)
    return next(speedup for speedup in found if speedup)
