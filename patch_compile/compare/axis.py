"""The axis that quality is drawn against: the ratio, bytes, or a speed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from patch_compile.compare.builds import Build
from patch_compile.compare.comparable import why_not_predicted
from patch_compile.compare.measured import Measured
from patch_compile.errors import PatchCompileError
from patch_compile.out.bench import Phase

__all__ = ["Against", "Axis", "axis_of"]

# In order of preference: the first phase that all builds were timed in.
_MEASURED = (Phase.DECODE, Phase.PREFILL, Phase.WHOLE)


class Against(StrEnum):
    """Kinds of axis, as `--x` spells them."""

    RATIO = "ratio"
    BYTES = "bytes"
    SPEED = "speed"


@dataclass(frozen=True)
class Axis:
    """One axis of the picture, with the values of all builds.

    label: label in the picture; what: name in a sentence; values: value of each build, by the build's name; dense:
    value of the dense model; digits: decimal places that count, as in the table; sign: 1 if more is better, -1 if less
    is.
    """

    label: str
    what: str
    values: Mapping[str, float]
    dense: float
    digits: int
    sign: int = 1

    def gain(self, value: float) -> float:
        """Returns the gain of a value: more is better.

        Values are rounded, so that those that differ by a tile, or by less than the table shows, have equal gains.
        """
        return round(self.sign * value, self.digits)


def axis_of(against: Against, builds: Sequence[Build], measured: Measured) -> Axis:
    """Returns the axis of a kind. Raises PatchCompileError for a speed that is not known for all builds."""
    if against is Against.RATIO:
        label = "ratio: zeroed weights, of those in covered linears"
        return Axis(label, "ratio", {build.name: build.ratio for build in builds}, 0.0, 3)
    if against is Against.BYTES:
        values = {build.name: build.nbytes / 1e6 for build in builds}
        return Axis(
            "ONNX file, MB: fewer to the right", "megabytes", values, builds[0].dense_bytes / 1e6, 1, -1
        )
    for phase in _MEASURED:
        if measured.of_all(phase, builds):
            batch, tokens = measured.sizes[phase]
            size = f"batch {batch}" + ("" if tokens is None else f", {tokens} tokens")
            label = f"measured speed-up, {phase}, {size}\n{measured.where}"
            return Axis(label, f"measured speed-up of {phase}", measured.speeds[phase], 1.0, 2)
    why = why_not_predicted(builds)
    if why:
        raise PatchCompileError(
            "There is no speed that all builds have",
            why,
            "Choose --x ratio or bytes, or time all: `patch-compile bench`.",
        )
    values = {build.name: speed for build in builds if (speed := build.predicted("end_to_end")) is not None}
    label = f"predicted speed-up, end to end\n{builds[0].predicted_for}"
    return Axis(label, "predicted speed-up", values, 1.0, 2)
