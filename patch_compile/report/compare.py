"""Puts a comparison of builds into words: the axis, the places of times, and the speeds that are left out."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain

from masklearn.masks.kinds.table import DENSE, KINDS, families_of
from patch_compile.artifacts.compare import (
    Against,
    BuildRow,
    ComparedAxis,
    CompareReport,
    LeftOut,
    LeftOutKind,
    Measure,
    PredictedFor,
    TimedPlace,
    TimedSize,
)
from patch_compile.report.bench import LIBRARY_NAMES

__all__ = [
    "MEASURES",
    "axis_label",
    "axis_words",
    "left_out_words",
    "method_words",
    "place_words",
    "predicted_for_words",
    "size_words",
]

MEASURES = {Measure.PERPLEXITY: "perplexity", Measure.OUTPUT_ERROR: "relative error of the outputs"}


def axis_words(axis: ComparedAxis) -> str:
    """Returns the axis as a name within a sentence, such as `measured speed-up of decode`."""
    match axis.against:
        case Against.RATIO:
            return "ratio"
        case Against.BYTES:
            return "megabytes"
    return f"measured speed-up of {axis.phase}" if axis.phase else "predicted speed-up"


def axis_label(report: CompareReport) -> str:
    """Returns the label of the axis in a picture, with the place and size of speeds on a second line."""
    axis, measured = report.axis, report.measured
    if axis.against is Against.RATIO:
        return "ratio: zeroed weights, of those in covered linears"
    if axis.against is Against.BYTES:
        return "ONNX file, MB: fewer to the right"
    if axis.phase and measured.place:
        size = size_words(measured.sizes[axis.phase])
        return f"measured speed-up, {axis.phase}, {size}\n{place_words(measured.place)}"
    where = f"\n{predicted_for_words(report.predicted_for)}" if report.predicted_for else ""
    return f"predicted speed-up, end to end{where}"


def method_words(build: BuildRow) -> str:
    """Returns the method, the families of pruned tiles unless all are 2:4, and what was done to weights beside pruning."""
    families = families_of(kind for kind in KINDS if kind is not DENSE and kind.name in build.kinds)
    tiles = [] if build.two_four_alone else [" and ".join(family.name for family in families)]
    return ", ".join([build.method, *tiles, *["permuted"] * build.permuted, *["repaired"] * build.repaired])


def size_words(size: TimedSize) -> str:
    """Returns batch and tokens."""
    return f"batch {size.batch}" + ("" if size.tokens is None else f", {size.tokens} tokens")


def place_words(place: TimedPlace) -> str:
    """Returns the device and the library that times come from."""
    return f"{place.device}, {LIBRARY_NAMES[place.library]} {place.version}"


def predicted_for_words(found: PredictedFor) -> str:
    """Returns the card and the workload that speeds are predicted for."""
    return f"{found.card}, {found.workload}"


def left_out_words(left_out: LeftOut) -> str:
    """Returns the reason why speeds can't be compared."""
    all_names = ", ".join(chain.from_iterable(left_out.builds))
    match left_out.kind:
        case LeftOutKind.NOT_PREDICTED:
            why = "no card of the table was known, or no checkpoint"
            return f"nothing is predicted for {all_names}: {why}"
        case LeftOutKind.PREDICTED_DIFFERENTLY:
            said = _by(left_out, map(predicted_for_words, left_out.predicted_for))
            return f"speeds were predicted for different cards or workloads ({said}): build with the same --target and sizes"
        case LeftOutKind.TIMED_ON_CPU:
            return f"times of {all_names} are ONNX Runtime's on a CPU, which say nothing about a GPU"
        case LeftOutKind.TIMED_ELSEWHERE:
            said = _by(left_out, map(place_words, left_out.places))
            return f"times were measured in different places ({said})"
        case LeftOutKind.TIMED_AT_OTHER_SIZES:
            return f"{all_names} were timed at different sizes: patch-compile bench them with the same ones"


def _by(left_out: LeftOut, kinds: Iterator[str]) -> str:
    pairs = zip(left_out.builds, kinds, strict=True)
    return "; ".join(f"{', '.join(names)}: {kind}" for names, kind in pairs)
