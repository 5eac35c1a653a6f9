"""Speeds that were measured on one GPU, at sizes that all builds were timed at."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from patch_compile.compare.builds import Build
from patch_compile.out.bench import BenchReport, Phase

__all__ = ["Measured", "measured_speeds"]

Size = tuple[int, int | None]  # batch, tokens


@dataclass(frozen=True)
class Measured:
    """Measured speed-ups.

    speeds: speed-up by phase, and by the name of each build that was timed there; sizes: batch and tokens of each
    phase; where: the GPU and the library; notes: what was left out, and why.
    """

    speeds: Mapping[Phase, Mapping[str, float]]
    sizes: Mapping[Phase, Size]
    where: str
    notes: tuple[str, ...]

    def of_all(self, phase: Phase, builds: Sequence[Build]) -> bool:
        """Returns True if every build was timed in a phase."""
        return all(build.name in self.speeds.get(phase, {}) for build in builds)


def measured_speeds(builds: Sequence[Build]) -> Measured:
    """Returns the speed-ups over the dense model of builds timed as engines on one GPU, at one size for each phase."""
    timed = {build.name: build.bench for build in builds if build.bench is not None}
    engines = {name: bench for name, bench in timed.items() if bench.runner.on_gpu}
    notes = []
    if on_cpu := [name for name in timed if name not in engines]:
        notes.append(
            f"times of {', '.join(on_cpu)} are ONNX Runtime's on a CPU, which say nothing about a GPU: they are left out"
        )
    places = {_place(bench) for bench in engines.values()}
    if len(places) > 1:
        return Measured(
            {}, {}, "", (*notes, f"times were measured in different places ({'; '.join(sorted(places))})")
        )
    sizes = dict(_common(list(engines.values())))
    if engines and not sizes:
        notes.append("builds were timed at different sizes: patch-compile bench them with the same ones")
    speeds = {
        phase: {name: _speed(bench, phase, size) for name, bench in engines.items()}
        for phase, size in sizes.items()
    }
    return Measured(speeds, sizes, next(iter(places), ""), tuple(notes))


def _place(bench: BenchReport) -> str:
    return f"{bench.device.name}, {bench.runner} {bench.device.backend_version}"


def _common(benches: Sequence[BenchReport]) -> Iterator[tuple[Phase, Size]]:
    """Yield each phase, with the smallest size that all benchmarks have."""
    for phase in Phase:
        each = [
            {(row.batch, row.tokens) for row in b.rows if row.phase is phase and row.speedup} for b in benches
        ]
        shared = set.intersection(*each) if each else set()
        if shared:
            yield phase, min(shared, key=lambda size: (size[0], size[1] or 0))


def _speed(bench: BenchReport, phase: Phase, size: Size) -> float:
    found = (row.speedup for row in bench.rows if (row.phase, row.batch, row.tokens) == (phase, *size))
    return next(speedup for speedup in found if speedup)
