"""Sections of a comparison of builds: a row for each, and the speeds that are left out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from operator import attrgetter
from typing import Any

from masklearn.masks.kinds.base import BYTES_DENSE
from masklearn.masks.kinds.table import DENSE, KINDS, families_of
from patch_compile.artifacts.compare import (
    Against,
    BuildRow,
    ComparedAxis,
    CompareReport,
    LeftOut,
    LeftOutKind,
    Measure,
    PredictedSpeeds,
)
from patch_compile.report.number_format import times
from patch_compile.report.section import Column, Columns, Section, Table, columns_of, table_of

_ALIKE = "kinds of tiles take different bytes at one ratio; `--x bytes` compares builds by their bytes"


def compared(report: CompareReport) -> Iterator[Section]:
    quality = report.quality
    title = f"{report.model.name}: {quality.measure.words} on {quality.on}"
    tables = [_table(report)]
    mixed = not all(row.two_four_alone for row in report.builds)
    if mixed:
        tables.append(_kinds(report))
    notes = [_ALIKE] if mixed and report.axis.against is Against.RATIO else []
    yield Section(title, tables=tables, lines=[*notes, *_lines(report)])


def _table(report: CompareReport) -> Table:
    """Returns a table, dense first."""
    columns: Columns = {
        **columns_of(BuildRow, "name"),
        Column("method", words=True): method_words,
        **columns_of(BuildRow, "ratio"),
        "perplexity" if report.quality.measure is Measure.PERPLEXITY else "error": lambda row: _figure(
            row.quality
        ),
        **columns_of(BuildRow, "increase", "bytes"),
        **columns_of(PredictedSpeeds, over="predicted", of=attrgetter("predicted")),
        **_columns(report.measured.sizes, attrgetter("measured"), times, "measured"),
        "Pareto": lambda row: "" if row.beaten_by else "yes",
    }
    return table_of([_dense(report), *report.builds], columns)


def _dense(report: CompareReport) -> BuildRow:
    speeds = PredictedSpeeds(prefill=1.0, decode=1.0, end_to_end=1.0)
    return BuildRow(
        name="dense", path="", method="", permuted=False, repaired=False, ratio=0.0, kinds={DENSE.name: 1.0},
        bytes_per_weight=BYTES_DENSE, quality=report.quality.dense, increase=None, bytes=report.dense_bytes,
        predicted=speeds if report.predicted_for else None, measured=dict.fromkeys(report.measured.sizes, 1.0),
        at=report.axis.dense, beaten_by=report.dense_beaten_by,
    )  # fmt: skip


def _kinds(report: CompareReport) -> Table:
    rows = [_dense(report), *report.builds]
    kinds = [kind.name for kind in KINDS if any(kind.name in row.kinds for row in rows)]
    columns: Columns = {
        Column("weights by kind of tile", words=True): attrgetter("name"),
        **_columns(kinds, attrgetter("kinds"), "{:.1%}".format),
        **columns_of(BuildRow, "bytes_per_weight"),
    }
    return table_of(rows, columns)


def _columns(
    keys: Iterable[str],
    of: Callable[[BuildRow], Mapping[str, Any]],
    spell: Callable[[Any], str],
    over: str = "",
) -> Columns:
    """Returns columns of a row's mapping, empty for rows without the key."""

    def cell(key: str, row: BuildRow) -> str:
        return spell(of(row)[key]) if key in of(row) else ""

    return {Column(key, over): partial(cell, key) for key in keys}


def _figure(value: float) -> str:
    return f"{value:.2f}" if value >= 10 else f"{value:.3f}"


def _lines(report: CompareReport) -> Iterator[str]:
    what, against = report.quality.measure.words, axis_words(report.axis)
    yield f"Pareto points, {what} against {against}: {', '.join(report.pareto) or 'none, the dense model beats them all'}"
    found = {row.name: (row.quality, row.at) for row in report.builds}
    dense = report.quality.dense, report.axis.dense
    for row in report.builds:
        if other := row.beaten_by:
            (loss, gain), (less, more) = found[row.name], found.get(other, dense)
            yield (
                f"{row.name} is beaten by {other}: {what} {_figure(loss)} against {_figure(less)}, {against} "
                f"{gain:.2f} against {more:.2f}"
            )
    if report.predicted_for:
        yield f"predicted: speed-up over dense on {report.predicted_for}"
    if place := report.measured.place:
        for phase, size in report.measured.sizes.items():
            yield f"measured: {phase} at {size} on {place}"
    for left_out in report.left_out:
        kind = "predicted" if left_out.predicted else "measured"
        yield f"{kind} speeds are left out: {left_out_words(left_out)}"
    if report.files:
        yield f"written: {', '.join(report.files)}"


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
        return "ratio: share of zeroed weights in covered linears"
    if axis.against is Against.BYTES:
        return "ONNX file, MB: fewer to the right"
    if axis.phase and measured.place:
        return f"measured speed-up, {axis.phase}, {measured.sizes[axis.phase]}\n{measured.place}"
    on = f"\n{report.predicted_for}" if report.predicted_for else ""
    return f"predicted speed-up, end to end{on}"


def method_words(build: BuildRow) -> str:
    """Returns the method, the families of pruned tiles unless all are 2:4, and changes of the weights other than pruning."""
    families = families_of(kind for kind in KINDS if kind is not DENSE and kind.name in build.kinds)
    tiles = [] if build.two_four_alone else [" and ".join(family.name for family in families)]
    return ", ".join([build.method, *tiles, *["permuted"] * build.permuted, *["repaired"] * build.repaired])


def left_out_words(left_out: LeftOut) -> str:
    all_names = ", ".join(chain.from_iterable(left_out.builds))
    match left_out.kind:
        case LeftOutKind.NOT_PREDICTED:
            why = "no card of the table was known, or no checkpoint"
            return f"nothing is predicted for {all_names}: {why}"
        case LeftOutKind.PREDICTED_DIFFERENTLY:
            told = _by(left_out, left_out.predicted_for)
            return f"speeds were predicted for different cards or workloads ({told}): build with the same --target and sizes"
        case LeftOutKind.TIMED_ON_CPU:
            return f"times of {all_names} are ONNX Runtime's on a CPU, which say nothing about a GPU"
        case LeftOutKind.TIMED_ELSEWHERE:
            return f"times were measured in different places ({_by(left_out, left_out.places)})"
        case LeftOutKind.TIMED_AT_OTHER_SIZES:
            return f"{all_names} were timed at different sizes: run patch-compile bench with the same sizes"


def _by(left_out: LeftOut, kinds: Iterable[object]) -> str:
    pairs = zip(left_out.builds, kinds, strict=True)
    return "; ".join(f"{', '.join(names)}: {kind}" for names, kind in pairs)


@dataclass(frozen=True)
class Spot:
    """A build as a point in the picture. gain: more is better; loss: less is better."""

    name: str
    gain: float
    loss: float

    def beats(self, other: Spot) -> bool:
        """Returns True if it is at least as good in both coordinates, and better in at least one."""
        at_least = self.gain >= other.gain and self.loss <= other.loss
        return at_least and (self.gain > other.gain or self.loss < other.loss)


def beaten_by(spots: Sequence[Spot]) -> dict[str, str | None]:
    """Returns the build that beats each build, by name, or None for a Pareto point.

    If several builds beat a build, it names the build with the smallest loss.
    """
    found: dict[str, str | None] = {}
    for spot in spots:
        better = [other for other in spots if other.beats(spot)]
        found[spot.name] = min(better, key=lambda one: (one.loss, -one.gain)).name if better else None
    return found
