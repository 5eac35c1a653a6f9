"""The table of a comparison of builds."""

from __future__ import annotations

from collections.abc import Iterator
from operator import attrgetter

from patch_compile.artifacts.compare import BuildRow, CompareReport, Measure, PredictedSpeeds
from patch_compile.report.section import Column, Columns, Section, columns_of, table_of


def compared(report: CompareReport) -> Iterator[Section]:
    quality = report.quality
    title = f"{report.model.name}: {quality.measure.words} on {quality.on}"
    columns: Columns = {
        **columns_of(BuildRow, "name"),
        Column("method", words=True): _method_words,
        **columns_of(BuildRow, "ratio"),
        "perplexity" if quality.measure is Measure.PERPLEXITY else "error": _quality_words,
        **columns_of(BuildRow, "increase", "bytes"),
        **columns_of(PredictedSpeeds, over="predicted", of=attrgetter("predicted")),
    }
    line = "predicted speeds are left out: builds lack them, or have them for different cards or workloads"
    if report.predicted_for:
        line = f"predicted: speed-up over dense on {report.predicted_for}"
    yield Section(title, tables=[table_of([_dense(report), *report.builds], columns)], lines=[line])


def _dense(report: CompareReport) -> BuildRow:
    speeds = PredictedSpeeds(prefill=1.0, decode=1.0, end_to_end=1.0)
    return BuildRow(
        name="dense", path="", method="", permuted=False, repaired=False, ratio=0.0, quality=report.quality.dense,
        increase=None, bytes=report.dense_bytes, predicted=speeds if report.predicted_for else None,
    )  # fmt: skip


def _method_words(build: BuildRow) -> str:
    """Returns the method, and the changes of the weights other than pruning."""
    return ", ".join([build.method, *["permuted"] * build.permuted, *["repaired"] * build.repaired])


def _quality_words(build: BuildRow) -> str:
    return f"{build.quality:.2f}" if build.quality >= 10 else f"{build.quality:.3f}"
