"""Checks that builds can be compared, and which of their figures can."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from patch_compile.compare.builds import PERPLEXITY, Build
from patch_compile.errors import PatchCompileError

__all__ = ["check_comparable", "why_not_predicted"]

# Relative difference of dense perplexities: on one text they differ only by the machine's rounding.
_SAME = 0.01


def check_comparable(builds: Sequence[Build]) -> None:
    """Raises PatchCompileError, naming the difference, for builds that can't be compared.

    All must be of one model, and evaluated on the same text or inputs.
    """
    if len(builds) < 2:
        raise PatchCompileError(
            "there is nothing to compare with",
            f"{builds[0].path} is the only build given" if builds else "no build is given",
            "give two or more: patch-compile compare OUT1 OUT2",
        )
    _check_same(
        builds,
        lambda build: build.sha256,
        lambda build: build.model,
        "are builds of different models",
        "a perplexity says nothing beside that of another model",
        "compare builds of one model",
    )
    _check_same(
        builds,
        lambda build: f"{build.quality.what} on {build.quality.on}",
        lambda build: f"{build.quality.what} on {build.quality.on}",
        "were judged on different text or inputs",
        "their figures can't be compared",
        "build them again with the same --eval, --eval-windows, --eval-length and --dtype: masks are kept",
    )
    _check_dense(builds)


def _check_same(
    builds: Sequence[Build],
    key: Callable[[Build], str],
    say: Callable[[Build], str],
    what: str,
    why: str,
    fix: str,
) -> None:
    first = builds[0]
    other = next((build for build in builds if key(build) != key(first)), None)
    if other is not None:
        raise PatchCompileError(
            f"{first.name} and {other.name} {what}",
            f"{first.name}: {say(first)}; {other.name}: {say(other)}; {why}",
            fix,
        )


def _check_dense(builds: Sequence[Build]) -> None:
    """Raises PatchCompileError if dense perplexities differ: the builds then had different texts of one name."""
    first = builds[0]
    for build in builds if first.quality.what == PERPLEXITY else ():
        if abs(build.quality.dense / first.quality.dense - 1) > _SAME:
            raise PatchCompileError(
                f"{first.name} and {build.name} were judged on different text",
                f"the dense model, which is the same, has a perplexity of {first.quality.dense:.2f} in one and of "
                f"{build.quality.dense:.2f} in the other",
                "build them again with the same --eval and --seed: masks are kept",
            )


def why_not_predicted(builds: Sequence[Build]) -> str:
    """Returns the reason why predicted speeds can't be compared, in words, empty if they can."""
    asked: dict[str, list[str]] = {}
    for build in builds:
        asked.setdefault(build.predicted_for, []).append(build.name)
    without = asked.pop("", [])
    if without:
        return f"nothing is predicted for {', '.join(without)}: no card of the table of cards was known, or no checkpoint"
    if len(asked) == 1:
        return ""
    said = "; ".join(f"{', '.join(names)}: {what}" for what, names in asked.items())
    return f"speeds were predicted for different cards or workloads ({said}): build with the same --target and sizes"
