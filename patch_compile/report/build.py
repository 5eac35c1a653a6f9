"""Sections of the results of all commands but `plan`, `verify`, `bench` and those that inspect."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from operator import attrgetter
from pathlib import Path
from typing import Any

from patch_compile.artifacts.command_results import (
    BuildRow,
    CompareReport,
    CompiledAnswer,
    ExportedAnswer,
    ImportedAnswer,
    LearnedAnswer,
    Measure,
    PredictedSpeeds,
    ReducedLinear,
)
from patch_compile.artifacts.layout import MASKS, MODEL, PAGE
from patch_compile.artifacts.report import DecoderReport, MaskedModel, OutputsReport, Report
from patch_compile.report.linears import (
    compiled_types,
    fused_words,
    linears_table,
    map_of_tiles,
    masks_table,
    skipped_counts,
    skipped_lines,
    split_lines,
    types_line,
)
from patch_compile.report.loss import limits_words, loss_of
from patch_compile.report.number_format import bytes_of
from patch_compile.report.plan import whole_table
from patch_compile.report.prediction import (
    asked_words,
    choice_line,
    gain_line,
    reason_lines,
    remarks,
    rivals_words,
)
from patch_compile.report.quality import baselines, output_warnings
from patch_compile.report.section import Column, Columns, Section, columns_of, facts, table_of
from patch_compile.report.verify import built, compiled, pruned

_NOT_COMPILED = "`build` decides for its target how each linear is compiled"


def finished(report: Report) -> Iterator[Section]:
    """Yield the result of a build: linears, the proof, and the written files."""
    types = types_line(compiled_types(report.linears))
    how = (
        *skipped_counts(report.skipped),
        *reason_lines(report.linears),
        *split_lines(report.linears),
        types,
    )
    yield Section(tables=[linears_table(report.linears)])
    yield map_of_tiles(report.where_sparse)
    choice = choice_line(report.learned.choice)
    fused = f"fused into their linears: {fused_words(report.linears)}"
    yield Section(lines=list(filter(None, (*how, *_ratio_lines(report), choice, fused))))
    yield compiled(report.agreement, report.kind)
    loss = loss_of(report) if report.dense_given else None
    asked = pruned(report, dense_given=report.dense_given)
    yield replace(asked, lines=[*asked.lines, limits_words(loss, report)]) if loss else asked
    yield built(None, report.engine) if report.engine else Section()
    yield predicted(report)
    if isinstance(report, OutputsReport):
        yield Section(lines=[f"warning: {line[:1].lower()}{line[1:]}" for line in output_warnings(report)])
    yield from _files(report)


def predicted(report: Report) -> Section:
    plan, whole = report.plan, report.plan.whole
    lines = remarks(report.linears, plan)
    if whole is None:
        return Section("Speed", id="speed", lines=lines)
    caption = f"Predicted, not measured: {plan.card}; {plan.workload}"
    lines = [rivals_words(whole, report.linears), *lines]
    return Section("Speed", id="speed", tables=[whole_table(whole, caption)], lines=list(filter(None, lines)))


def _files(report: Report) -> Iterator[Section]:
    if isinstance(report, DecoderReport):
        texts = [
            (name, text) for name, text in facts(report.generated) if report.dense_given or name != "dense"
        ]
        yield Section("What the models say", facts=texts)
    file = report.engine or report.onnx
    kind, why = ("engine", "") if report.engine else ("onnx", " (no engine: backend onnx)")
    made = (kind, f"{file.path}, {bytes_of(file.bytes)}{why}")
    yield Section("Files", facts=[made, ("report", str(Path(report.path).parent / PAGE))])


def learned(answer: LearnedAnswer) -> Iterator[Section]:
    yield Section(tables=[masks_table(answer.linears)])
    yield map_of_tiles(answer.where_sparse)
    files = f"masks: {answer.path}/{MASKS}, pruned model: {answer.path}/{MODEL}; {_NOT_COMPILED}"
    size = answer.bytes_per_weight
    reached = (
        _ratio_lines(answer)
        if size is None
        else [f"bytes of a weight: {size:.4f} (asked: {asked_words(answer.asked)}), method {answer.method}"]
    )
    yield Section(lines=[*skipped_lines(answer.skipped), *reached, files])
    yield baselines(answer.baselines)


def compiled_model(answer: CompiledAnswer) -> Iterator[Section]:
    yield Section(
        tables=[linears_table(answer.linears)],
        lines=[
            *skipped_lines(answer.skipped),
            *reason_lines(answer.linears),
            *split_lines(answer.linears),
            f"ratio: {answer.ratio:.4f}, method {answer.method}",
            f"fused into their linears: {fused_words(answer.linears)}",
            f"onnx: {answer.onnx.path}, {bytes_of(answer.onnx.bytes)}",
        ],
    )


def imported(answer: ImportedAnswer) -> Iterator[Section]:
    lines = [*skipped_lines(answer.skipped), _NOT_COMPILED]
    yield Section(facts=list(facts(answer)), tables=[masks_table(answer.linears)], lines=lines)


def exported(answer: ExportedAnswer) -> Iterator[Section]:
    linears = ", ".join(f"{count} {kind}" for kind, count in answer.linears.items())
    sizes = f"{bytes_of(answer.bytes)}, {bytes_of(answer.model_bytes)} in {MODEL}"
    yield Section(lines=[f"linears: {linears}", f"{answer.format}: {answer.path} ({sizes})"])


def reduced(linear: ReducedLinear) -> Iterator[Section]:
    error = "not finite" if linear.error is None else f"{linear.error:.2e} of the largest output"
    verdict = (
        "rounding explains it" if linear.passed else f"rounding explains {linear.tolerance:.2e}: it is wrong"
    )
    lines = [
        f"{' + '.join(linear.linears)}, {linear.lowering}: error {error}; {verdict}",
        f"hybrid.onnx, dense.onnx, inputs.npz, outputs.npz: {linear.path}",
        f"run it: {linear.command}",
    ]
    yield Section(lines=lines)


def plugin(result: Mapping[str, Any]) -> Iterator[Section]:
    archs = ", ".join(f"sm{arch}" for arch in result["archs"])
    yield Section(lines=[f"plugin for {result['backend']}, {archs}: {result['path']}"])


def _ratio_lines(model: MaskedModel | LearnedAnswer) -> Iterator[str]:
    """Yield the reached ratio, the request, and the linears that gain unless all do."""
    yield f"ratio: {model.ratio:.4f} (asked: {asked_words(model.asked)}), method {model.method}"
    if (choice := model.learned.choice) and (line := gain_line(choice.gains)):
        yield line


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
    return ", ".join([build.method, *["permuted"] * build.permuted, *["repaired"] * build.repaired])


def _quality_words(build: BuildRow) -> str:
    return f"{build.quality:.2f}" if build.quality >= 10 else f"{build.quality:.3f}"
