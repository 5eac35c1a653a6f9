"""What quality is set against: the ratio, bytes, or a speed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from patch_compile.compare.builds import Build
from patch_compile.compare.comparable import why_not_predicted
from patch_compile.compare.measured import Measured
from patch_compile.errors import PatchCompileError

__all__ = ["Against", "Axis", "axis_of"]

_MEASURED = ("decode", "prefill", "whole")  # the first that all builds were timed in


class Against(StrEnum):
    """As `--x` spells it."""

    RATIO = "ratio"
    BYTES = "bytes"
    SPEED = "speed"


@dataclass(frozen=True)
class Axis:
    """label: in the picture; what: in a sentence; values: by the name of the build; dense: of the dense model; digits: of a
    value that count, as the table has them; sign: 1 where more is better, -1 where less is."""

    label: str
    what: str
    values: Mapping[str, float]
    dense: float
    digits: int
    sign: int = 1

    def gain(self, value: float) -> float:
        """More of it is better; what differs by a tile, or by less than is shown, is the same."""
        return round(self.sign * value, self.digits)


def axis_of(against: Against, builds: Sequence[Build], measured: Measured) -> Axis:
    """The axis that is asked for. Raises PatchCompileError for a speed when there is none that all builds have."""
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
