"""Sections of a comparison of builds: a row for each, and the speeds that are left out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

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
)
from patch_compile.report.section import Column, Section, Table

_PREDICTED = {"all": "end_to_end", "prefill": "prefill", "decode": "decode"}
_ALIKE = "kinds of tiles take different bytes at one ratio; `--x bytes` compares builds by their bytes"


def compared(report: CompareReport) -> Iterator[Section]:
    quality = report.quality
    title = f"{Path(report.model.path).stem}: {quality.measure.words} on {quality.on}"
    tables = [_table(report)]
    mixed = not all(row.two_four_alone for row in report.builds)
    if mixed:
        tables.append(_kinds(report))
    notes = [_ALIKE] if mixed and report.axis.against is Against.RATIO else []
    yield Section(title, tables=tables, lines=[*notes, *_lines(report)])


def _table(report: CompareReport) -> Table:
    """Returns a table, dense first, without columns that are empty for all builds."""
    phases, perplexity = list(report.measured.sizes), report.quality.measure is Measure.PERPLEXITY
    predicted = [Column(title, "predicted") for title in _PREDICTED]
    measured = [Column(phase, "measured") for phase in phases]
    headings: list[Column | str] = [
        Column("build", words=True), Column("method", words=True), "ratio", "perplexity" if perplexity else "error",
        "more", "MB", *predicted, *measured, "Pareto",
    ]  # fmt: skip
    speeds = ["1.00" if report.predicted_for else ""] * len(predicted) + ["1.00"] * len(measured)
    first = [
        "dense",
        "",
        "0.000",
        _figure(report.quality.dense),
        "",
        _megabytes(report.dense_bytes),
        *speeds,
        "",
    ]
    rows = [
        [
            row.name,
            method_words(row),
            f"{row.ratio:.3f}",
            _figure(row.quality),
            "" if row.increase is None else f"{row.increase:+.1%}",
            _megabytes(row.bytes),
            *(f"{getattr(row.predicted, name):.2f}" if row.predicted else "" for name in _PREDICTED.values()),
            *(f"{row.measured[phase]:.2f}" if phase in row.measured else "" for phase in phases),
            "" if row.beaten_by else "yes",
        ]
        for row in report.builds
    ]
    return Table(headings, [first, *rows]).without_empty()


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.1f}"


def _kinds(report: CompareReport) -> Table:
    found = {DENSE.name}.union(*(row.kinds for row in report.builds))
    kinds = [kind.name for kind in KINDS if kind.name in found]
    rows = [[DENSE.name, "100.0", *[""] * len(kinds[1:]), f"{BYTES_DENSE:.3f}"]]
    for row in report.builds:
        shares = [f"{100 * row.kinds[name]:.1f}" if name in row.kinds else "" for name in kinds]
        rows.append([row.name, *shares, f"{row.bytes_per_weight:.3f}"])
    return Table([Column("tiles, % of the weights", words=True), *kinds, "bytes a weight"], rows)


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
