"""Prints builds side by side: a row for each, with a mark for those that no other build beats."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.table import Table

from masklearn.masks.kinds.base import BYTES_DENSE
from masklearn.masks.kinds.table import DENSE, KINDS
from patch_compile.artifacts.bench import Phase
from patch_compile.artifacts.compare import Against, BuildRow, CompareReport, Measure
from patch_compile.report.compare import (
    MEASURES,
    axis_words,
    left_out_words,
    method_words,
    place_words,
    predicted_for_words,
    size_words,
)
from patch_compile.report.terminal.folding import FoldingTable
from patch_compile.report.terminal.parts import Part

__all__ = ["compared_parts"]

_PREDICTED = {"end_to_end": "all", "prefill": "prefill", "decode": "decode"}


def compared_parts(report: CompareReport) -> Iterator[Part]:
    """Yield the result of `compare`."""
    quality = report.quality
    yield f"{Path(report.model.path).stem}: {MEASURES[quality.measure]} on {quality.on}"
    yield _table(report)
    if not all(row.two_four_alone for row in report.builds):
        yield from _kinds(report)
    yield from _lines(report)


def _table(report: CompareReport) -> Table:
    """Returns a table, dense first. It leaves out columns that are empty for all builds."""
    perplexity = report.quality.measure is Measure.PERPLEXITY
    predicted = list(_PREDICTED.values()) if report.predicted_for else []
    measured = list(report.measured.sizes)
    table = FoldingTable()
    table.add_column("\nbuild")
    table.add_column("\nmethod", no_wrap=True)
    for name in ("ratio", "perplexity" if perplexity else "error", *["more"] * perplexity, "MB"):
        table.add_number(f"\n{name}", joined=name == "more")
    for over, names in (("predicted", predicted), ("measured", measured)):
        for i, name in enumerate(names):
            table.add_number(f"{over if i == 0 else ''}\n{name}", joined=i > 0)
    table.add_number("\nPareto")
    table.add_row(
        "dense", "", "0.000", _figure(report.quality.dense), *[""] * perplexity, f"{report.dense_bytes / 1e6:.1f}",
        *["1.00"] * (len(predicted) + len(measured)), "",
    )  # fmt: skip
    for row in report.builds:
        table.add_row(*_cells(row, measured))
    return table


def _cells(row: BuildRow, measured: Sequence[Phase]) -> Iterator[str]:
    yield from (row.name, method_words(row), f"{row.ratio:.3f}", _figure(row.quality))
    if row.increase is not None:
        yield f"{row.increase:+.1%}"
    yield f"{row.bytes / 1e6:.1f}"
    if row.predicted:
        yield from (f"{getattr(row.predicted, name):.2f}" for name in _PREDICTED)
    yield from (f"{row.measured[phase]:.2f}" if phase in row.measured else "" for phase in measured)
    yield "" if row.beaten_by else "yes"


def _kinds(report: CompareReport) -> Iterator[Part]:
    """Yield the shares of the kinds of tiles, and what a weight takes with them."""
    found = {DENSE.name}.union(*(row.kinds for row in report.builds))
    kinds = [kind.name for kind in KINDS if kind.name in found]
    table = FoldingTable()
    table.add_column("tiles, % of the weights")
    for name in kinds:
        table.add_number(name)
    table.add_number("bytes a weight")
    table.add_row(DENSE.name, "100.0", *[""] * len(kinds[1:]), f"{BYTES_DENSE:.3f}")
    for row in report.builds:
        shares = [f"{100 * row.kinds[name]:.1f}" if name in row.kinds else "" for name in kinds]
        table.add_row(row.name, *shares, f"{row.bytes_per_weight:.3f}")
    yield table
    if report.axis.against is Against.RATIO:
        yield "note: kinds of tiles take different bytes at one ratio; `--x bytes` compares builds by what they take"


def _figure(value: float) -> str:
    return f"{value:.2f}" if value >= 10 else f"{value:.3f}"


def _lines(report: CompareReport) -> Iterator[str]:
    what, against = MEASURES[report.quality.measure], axis_words(report.axis)
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
        yield f"predicted: speed-up over dense on {predicted_for_words(report.predicted_for)}"
    if place := report.measured.place:
        for phase, size in report.measured.sizes.items():
            yield f"measured: {phase} at {size_words(size)} on {place_words(place)}"
    for left_out in report.left_out:
        kind = "predicted" if left_out.predicted else "measured"
        yield f"note: {kind} speeds are left out: {left_out_words(left_out)}"
    if report.files:
        yield f"written: {', '.join(report.files)}"
