"""Checks that builds can be compared, and finds the speeds that can.

Measured speeds can be compared if they come from one GPU, at sizes that all builds were timed at.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from patch_compile.artifacts.bench import BenchReport, Phase
from patch_compile.artifacts.compare import (
    LeftOut,
    LeftOutKind,
    Measure,
    MeasuredSpeeds,
    PredictedFor,
    TimedPlace,
    TimedSize,
)
from patch_compile.comparison.builds import ComparedBuild
from patch_compile.errors import PatchCompileError, UsageError

# Relative difference of dense perplexities: on one text they differ only by the machine's rounding.
_SAME = 0.01


def check_comparable(builds: Sequence[ComparedBuild]) -> None:
    """Raises PatchCompileError, naming the difference, for builds that can't be compared.

    All must be of one model, and evaluated on the same text or inputs.
    """
    if len(builds) < 2:
        raise UsageError(
            "There is nothing to compare with",
            f"{builds[0].figures.path} is the only build given." if builds else "No build is given.",
            "Give two or more: `patch-compile compare OUT1 OUT2`.",
        )
    _check_same(
        builds,
        lambda build: build.model.sha256,
        lambda build: build.model.path,
        "are builds of different models",
        "Perplexities of different models cannot be compared.",
        "Compare builds of one model.",
    )
    _check_same(
        builds,
        _judged,
        _judged,
        "were judged on different text or inputs",
        "Their figures can't be compared.",
        "Build them again with the same `--eval`, `--eval-windows`, `--eval-length` and `--dtype`. Masks are kept.",
    )
    _check_dense(builds)


def _judged(build: ComparedBuild) -> str:
    return f"{build.quality.measure.words} on {build.quality.on}"


def _check_same(
    builds: Sequence[ComparedBuild],
    key: Callable[[ComparedBuild], str],
    say: Callable[[ComparedBuild], str],
    what: str,
    why: str,
    fix: str,
) -> None:
    first = builds[0]
    other = next((build for build in builds if key(build) != key(first)), None)
    if other is not None:
        raise PatchCompileError(
            f"{first.name} and {other.name} {what}",
            f"{first.name}: {say(first)}; {other.name}: {say(other)}. {why}",
            fix,
        )


def _check_dense(builds: Sequence[ComparedBuild]) -> None:
    """Raises PatchCompileError if dense perplexities differ: the builds then had different texts of the same name."""
    first = builds[0]
    for build in builds if first.quality.measure is Measure.PERPLEXITY else ():
        if abs(build.quality.dense / first.quality.dense - 1) > _SAME:
            raise PatchCompileError(
                f"{first.name} and {build.name} were judged on different text",
                f"Their dense models are the same, but have perplexities of {first.quality.dense:.2f} and "
                f"{build.quality.dense:.2f}.",
                "Build them again with the same `--eval` and `--seed`. Masks are kept.",
            )


def why_not_predicted(builds: Sequence[ComparedBuild]) -> LeftOut | None:
    """Returns the reason why predicted speeds can't be compared, or None if they can."""
    asked: dict[PredictedFor | None, list[str]] = {}
    for build in builds:
        asked.setdefault(build.predicted_for, []).append(build.name)
    if without := asked.pop(None, []):
        return LeftOut(kind=LeftOutKind.NOT_PREDICTED, builds=(tuple(without),))
    if len(asked) == 1:
        return None
    kinds = tuple(found for found in asked if found)
    names = tuple(map(tuple, asked.values()))
    return LeftOut(kind=LeftOutKind.PREDICTED_DIFFERENTLY, builds=names, predicted_for=kinds)


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
        phase: {name: _speeds(bench, phase)[size] for name, bench in engines.items()}
        for phase, size in sizes.items()
    }
    return Measured(speeds, MeasuredSpeeds(place=next(iter(places), None), sizes=sizes), tuple(left_out))


def _place(bench: BenchReport) -> TimedPlace:
    return TimedPlace(device=bench.device.name, library=bench.runner, version=bench.device.backend_version)


def _common(benches: Sequence[BenchReport]) -> Iterator[tuple[Phase, TimedSize]]:
    """Yield each phase, with the smallest size that all benchmarks have."""
    for phase in Phase:
        each = [set(_speeds(bench, phase)) for bench in benches]
        shared = set.intersection(*each) if each else set()
        if shared:
            yield phase, min(shared, key=lambda size: (size.batch, size.tokens or 0))


def _speeds(bench: BenchReport, phase: Phase) -> dict[TimedSize, float]:
    """Returns the known speed-ups of a phase."""
    rows = [row for row in bench.rows if row.phase is phase]
    return {TimedSize(batch=row.batch, tokens=row.tokens): row.speedup for row in rows if row.speedup}
