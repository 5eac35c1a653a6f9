"""Checks that builds can be compared, and which of their figures can."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from patch_compile.artifacts.compare import LeftOut, LeftOutKind, Measure, PredictedFor
from patch_compile.comparison.builds import ComparedBuild
from patch_compile.errors import PatchCompileError, UsageError
from patch_compile.report.compare import MEASURES

__all__ = ["check_comparable", "why_not_predicted"]

# Relative difference of dense perplexities: on one text they differ only by the machine's rounding.
_SAME = 0.01


def check_comparable(builds: Sequence[ComparedBuild]) -> None:
    """Raises PatchCompileError, naming the difference, for builds that can't be compared.

    All must be of one model, and evaluated on the same text or inputs.
    """
    if len(builds) < 2:
        raise UsageError(
            "There is nothing to compare with",
            f"{builds[0].path} is the only build given." if builds else "No build is given.",
            "Give two or more: `patch-compile compare OUT1 OUT2`.",
        )
    _check_same(
        builds,
        lambda build: build.sha256,
        lambda build: build.model,
        "are builds of different models",
        "A perplexity says nothing beside that of another model.",
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
    return f"{MEASURES[build.quality.measure]} on {build.quality.on}"


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
    """Raises PatchCompileError if dense perplexities differ: the builds then had different texts of one name."""
    first = builds[0]
    for build in builds if first.quality.measure is Measure.PERPLEXITY else ():
        if abs(build.quality.dense / first.quality.dense - 1) > _SAME:
            raise PatchCompileError(
                f"{first.name} and {build.name} were judged on different text",
                f"The dense model, which is the same, has a perplexity of {first.quality.dense:.2f} in one and of "
                f"{build.quality.dense:.2f} in the other.",
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
