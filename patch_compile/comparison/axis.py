"""The axis that quality is drawn against: the ratio, bytes, or a speed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from patch_compile.artifacts.bench import Phase
from patch_compile.artifacts.compare import Against, ComparedAxis
from patch_compile.comparison.builds import ComparedBuild
from patch_compile.comparison.comparable import why_not_predicted
from patch_compile.comparison.measured import Measured
from patch_compile.errors import PatchCompileError, sentence
from patch_compile.report.compare import left_out_words

__all__ = ["BuildsOnAxis", "place_on_axis"]

# In order of preference: the first phase that all builds were timed in.
_MEASURED = (Phase.DECODE, Phase.PREFILL, Phase.WHOLE)


@dataclass(frozen=True)
class BuildsOnAxis:
    """The axis, and the value of each build on it, by the build's name."""

    axis: ComparedAxis
    values: Mapping[str, float]

    def gain(self, value: float) -> float:
        """Returns the gain of a value: more is better.

        Values are rounded, so that those that differ by a tile, or by less than the table shows, have equal gains.
        """
        return round(self.axis.against.sign * value, self.axis.against.digits)


def place_on_axis(against: Against, builds: Sequence[ComparedBuild], measured: Measured) -> BuildsOnAxis:
    """Returns the axis of a kind. Raises PatchCompileError for a speed that is not known for all builds."""
    if against is Against.RATIO:
        return _on(against, 0.0, {build.name: build.ratio for build in builds})
    if against is Against.BYTES:
        values = {build.name: build.nbytes / 1e6 for build in builds}
        return _on(against, builds[0].dense_bytes / 1e6, values)
    for phase in _MEASURED:
        if measured.of_all(phase, builds):
            return _on(against, 1.0, measured.speeds[phase], phase)
    if why := why_not_predicted(builds):
        raise PatchCompileError(
            "There is no speed that all builds have",
            sentence(left_out_words(why)),
            "Choose `--x ratio` or `--x bytes`, or time all: `patch-compile bench`.",
        )
    speeds = {build.name: build.predicted.end_to_end for build in builds if build.predicted}
    return _on(against, 1.0, speeds)


def _on(
    against: Against, dense: float, values: Mapping[str, float], phase: Phase | None = None
) -> BuildsOnAxis:
    return BuildsOnAxis(ComparedAxis(against=against, phase=phase, dense=dense), values)
