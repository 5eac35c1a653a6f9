"""Prints reports of builds, masks and compiled models."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from rich.table import Table

from masklearn.masks.name_globs import kind_of, short_kinds
from masklearn.masks.record import TileSummary
from patch_compile.artifacts.command_results import (
    CompiledAnswer,
    ExportedAnswer,
    ImportedAnswer,
    LearnedAnswer,
    MaskedLinear,
    ReducedLinear,
)
from patch_compile.artifacts.layout import MASKS, MODEL, PAGE
from patch_compile.artifacts.plan import CardRow, Gaining, LinearRow, Skipped
from patch_compile.artifacts.proof import OutputsDifference
from patch_compile.artifacts.report import DecoderReport, MaskedModel, OutputsReport, Report
from patch_compile.report.output_error import output_warnings
from patch_compile.report.prediction import (
    choice_line,
    gain_line,
    lowering_words,
    node_words,
    reason_lines,
    remarks,
    speed_line,
)
from patch_compile.report.proof import compared_words, pruned_words, text_words, tolerance_words
from patch_compile.report.sparse_products import sparsity_words, split_lines
from patch_compile.report.terminal.baselines import baseline_parts
from patch_compile.report.terminal.folding import FoldingTable
from patch_compile.report.terminal.parts import Part
from patch_compile.report.weight_types import compiled_types, types_line

__all__ = [
    "build_parts",
    "by_kind",
    "compiled_parts",
    "exported_parts",
    "import_parts",
    "masks_parts",
    "output_lines",
    "plugin_parts",
    "reduced_parts",
]

Row = Mapping[str, Any]
_Linear = TypeVar("_Linear", LinearRow, MaskedLinear)
_NOT_COMPILED = "`build` decides for its target how each linear is compiled"
_OUTPUTS = 4  # outputs of a graph that are shown; a decoder has two for each layer's cache
_REASONS = 6  # reasons why nodes stay dense that are shown without --verbose
_SHADES = " ░▒▓█"  # none, and quarters: a map is readable without colour


def build_parts(report: Report, *, every: bool = False) -> Iterator[Part]:
    """Yield the result of a build: linears, the proof, and the written files.

    every: name all nodes that stay dense, instead of counting those that do so for the same reason.
    """
    yield _linears_table(report.linears)
    yield from _where_parts(report.where_sparse)
    yield from _skipped_lines(report.skipped) if every else _skipped_counts(report.skipped)
    yield from reason_lines(report.linears)
    yield from split_lines(report.linears)
    yield from filter(None, [types_line(compiled_types(report.linears))])
    yield from _ratio_lines(report)
    yield from _tokens_lines(report) if isinstance(report, DecoderReport) else _outputs_lines(report)
    yield f"report: {Path(report.path).parent / PAGE}"


def masks_parts(answer: LearnedAnswer) -> Iterator[Part]:
    """Yield the result of `learn`."""
    yield _masks_table(answer.linears)
    yield from _where_parts(answer.where_sparse)
    yield from _skipped_lines(answer.skipped)
    yield from _ratio_lines(answer)
    yield f"masks: {answer.path}/{MASKS}, pruned model: {answer.path}/{MODEL}; {_NOT_COMPILED}"
    if answer.baselines:
        yield from baseline_parts(answer.baselines)


def compiled_parts(answer: CompiledAnswer) -> Iterator[Part]:
    """Yield the result of `compile`."""
    yield _linears_table(answer.linears)
    yield from _skipped_lines(answer.skipped)
    yield from reason_lines(answer.linears)
    yield from split_lines(answer.linears)
    yield f"ratio: {answer.ratio.reached:.4f}, method {answer.method}"
    yield f"fused into their linears: {_fused(answer.linears) or 'nothing'}"
    yield f"onnx: {answer.onnx.path}, {answer.onnx.bytes / 1e6:.1f} MB"


def import_parts(answer: ImportedAnswer) -> Iterator[Part]:
    """Yield the result of `import-mask`."""
    yield _masks_table(answer.linears)
    yield from _skipped_lines(answer.skipped)
    yield f"ratio: {answer.ratio:.4f}, zeros {answer.zeros:.4f}, format {answer.format}"
    yield f"masks: {answer.path}; {_NOT_COMPILED}"


def exported_parts(answer: ExportedAnswer) -> Iterator[Part]:
    """Yield the result of `export`: the linears by type, and the folder with its size."""
    linears = ", ".join(f"{count} {kind}" for kind, count in answer.linears.items())
    smaller = f"{answer.bytes / 1e6:.1f} MB, {answer.model_bytes / 1e6:.1f} MB in {MODEL}"
    yield f"linears: {linears}"
    yield f"{answer.format}: {answer.path} ({smaller})"


def reduced_parts(found: ReducedLinear) -> Iterator[Part]:
    """Yield the result of `debug reduce`: the error of the linear, the folder, and a command that runs it."""
    error = "not finite" if found.error is None else f"{found.error:.2e} of the largest output"
    verdict = (
        "rounding explains it" if found.passed else f"rounding explains {found.tolerance:.2e}: it is wrong"
    )
    yield f"{' + '.join(found.linears)}, {found.lowering}: error {error}; {verdict}"
    yield f"hybrid.onnx, dense.onnx, inputs.npz, outputs.npz: {found.path}"
    yield f"run it: {found.command}"


def plugin_parts(result: Row) -> Iterator[Part]:
    """Yield the result of `plugin`: the path of the library."""
    archs = ", ".join(f"sm{arch}" for arch in result["archs"])
    yield f"plugin for {result['backend']}, {archs}: {result['path']}"


def _skipped_lines(skipped: Iterable[Skipped]) -> Iterator[str]:
    yield from (f"left dense: {row.name}: {row.reason}" for row in skipped)


def _skipped_counts(skipped: Iterable[Skipped]) -> Iterator[str]:
    """Yield a line for each of the most frequent reasons, and one for the rest."""
    reasons: dict[str, list[str]] = {}
    for row in skipped:
        reasons.setdefault(row.reason, []).append(row.name)
    order = sorted(reasons.items(), key=lambda reason: -len(reason[1]))
    for reason, names in order[:_REASONS]:
        yield f"left dense: {names[0] if len(names) == 1 else f'{len(names)} like {names[0]}'}: {reason}"
    if rest := sum(len(names) for _, names in order[_REASONS:]):
        yield f"left dense: {rest} more, for other reasons: --verbose names them all"


def _linears_table(linears: Sequence[LinearRow]) -> Table:
    """Returns one row per kind of linear and lowering: `model.layers.7.mlp.up_proj` and its like are `up_proj`."""
    table = FoldingTable()
    for header in ("linear", "count", "shape", "ratio", "pruned tiles", "lowering", "MB before", "MB after"):
        table.add_column(header, no_wrap=True, justify="left" if header == "linear" else "right")
    for (kind, shape, lowering), rows in by_kind(linears).items():
        table.add_row(kind, str(len(rows)), shape, *_ratio_and_tiles(rows), lowering, *_megabytes(rows))
    table.add_section()
    table.add_row("all", str(len(linears)), "", *_ratio_and_tiles(linears), "", *_megabytes(linears))
    return table


def _masks_table(linears: Sequence[MaskedLinear]) -> Table:
    """Returns one row per kind of linear, without what only a build knows."""
    table = FoldingTable()
    for header in ("linear", "count", "shape", "ratio", "pruned tiles"):
        table.add_column(header, no_wrap=True, justify="left" if header == "linear" else "right")
    for (kind, shape, _), rows in _grouped(linears, lambda _: "").items():
        table.add_row(kind, str(len(rows)), shape, *_ratio_and_tiles(rows))
    table.add_section()
    table.add_row("all", str(len(linears)), "", *_ratio_and_tiles(linears))
    return table


def by_kind(linears: Sequence[LinearRow]) -> dict[tuple[str, str, str], list[LinearRow]]:
    """Group linears by kind, shape, and lowering with the type of quantised weights. A kind is the shortest end of the name
    that distinguishes it."""
    return _grouped(linears, lowering_words)


def _grouped(
    linears: Sequence[_Linear], lowering: Callable[[_Linear], str]
) -> dict[tuple[str, str, str], list[_Linear]]:
    short = short_kinds(dict.fromkeys(kind_of(row.name) for row in linears))
    kinds: dict[tuple[str, str, str], list[_Linear]] = {}
    for row in linears:
        shape = "×".join(map(str, row.shape))
        kinds.setdefault((short[kind_of(row.name)], shape, lowering(row)), []).append(row)
    order = list(short.values())
    return dict(sorted(kinds.items(), key=lambda kind: order.index(kind[0][0])))


def _ratio_and_tiles(rows: Sequence[LinearRow | MaskedLinear]) -> tuple[str, str]:
    weights = sum(row.shape[0] * row.shape[1] for row in rows)
    zeroed = sum(row.zeroed for row in rows)
    sparse, tiles = sum(row.tiles.sparse for row in rows), sum(row.tiles.all for row in rows)
    return (f"{zeroed / weights:.3f}" if weights else "", f"{sparse}/{tiles}")


def _megabytes(rows: Sequence[LinearRow]) -> tuple[str, str]:
    before, after = sum(row.bytes_before for row in rows), sum(row.bytes_after for row in rows)
    return f"{before / 1e6:.1f}", f"{after / 1e6:.1f}"


def _where_parts(where: TileSummary) -> Iterator[Part]:
    """Yield a map: per cent of pruned tiles, with kinds as rows and blocks as columns."""
    if not where.blocks:
        return
    table = FoldingTable(box=None, header_style="")
    table.add_column("% of tiles pruned", no_wrap=True)
    table.add_column("all", justify="right", no_wrap=True)
    for first, _ in where.blocks:
        table.add_column(str(first), justify="right", no_wrap=True)
    for name, row in (*((kind.kind, kind) for kind in where.kinds), ("all", where.all)):
        table.add_row(name, *map(_shaded, (row.share, *row.by_depth)))
    yield table
    yield "columns: all blocks, then groups of neighbouring blocks by the first of them"


def _shaded(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.0f}{_SHADES[math.ceil(4 * share)]}"


def _fused(linears: Iterable[LinearRow]) -> str:
    """Returns the epilogues of nodes, with the number of nodes that have each."""
    nodes = dict.fromkeys(row.node for row in linears if row.node)
    counts = Counter(node_words(node, node.linears[0]) for node in nodes)
    return ", ".join(f"{words} ×{count}" for words, count in counts.items() if words)


def _ratio_lines(found: MaskedModel | LearnedAnswer) -> Iterator[str]:
    """Yield the ratio that was reached and what was asked for, and the linears that it counts over if these are not all."""
    speed, gains, budget = found.learned.speed, found.learned.gains, found.learned.budget
    asked = budget.ratio if gains and budget else f"{found.ratio.asked:g}"
    words = f"for {speed.goal}" if speed else f"asked {asked}"
    yield f"ratio: {found.ratio.reached:.4f} ({words}), method {found.method}"
    if gains:
        counts = gains.model_dump(exclude={"card"})
        gaining = Gaining(**counts, ratio_of_covered=found.ratio.reached)
        yield from filter(None, [gain_line(gaining, CardRow(name=gains.card) if gains.card else None)])


def _tokens_lines(report: DecoderReport) -> Iterator[str]:
    """Yield the proof of a decoder, with the files between it and the generated text."""
    found = report.perplexity
    yield from filter(None, [choice_line(report.learned.speed)])
    yield f"perplexity: dense {found.dense:.2f}, hybrid {found.hybrid:.2f} ({text_words(found.on)})"
    yield f"compiled right: yes, hybrid ONNX and {_differ(report)} of the largest logit ({_allowed(report)})"
    yield from _plan_lines(report)
    yield f"pruned how much: same next token as dense at {report.difference.top1_agreement:.0%} of positions"
    yield from _file_lines(report)
    said = report.generated
    yield f"dense says: {said.prompt}{said.dense}"
    yield f"hybrid says: {said.prompt}{said.hybrid}"


def _outputs_lines(report: OutputsReport) -> Iterator[str]:
    """Yield the proof of an encoder or of an ONNX file, and the files."""
    yield f"compiled right: yes, hybrid and {_differ(report)} of the largest output ({_allowed(report)})"
    yield from _plan_lines(report)
    yield from output_lines(report.difference)
    yield f"compared on {compared_words(report.inputs)}"
    yield from (f"warning: {line[:1].lower()}{line[1:]}" for line in output_warnings(report))
    yield from _file_lines(report)


def _plan_lines(report: Report) -> Iterator[str]:
    yield from filter(None, (speed_line(report.plan), *remarks(report.linears, report.plan)))
    yield f"fused into their linears: {_fused(report.linears) or 'nothing'}"


def _differ(report: Report) -> str:
    error = report.agreement.error
    return f"{pruned_words(report.kind)} differ by {'no finite number' if error is None else f'{error:.2e}'}"


def _allowed(report: Report) -> str:
    tolerance = report.agreement.tolerance
    return f"allowed {tolerance.share:.2e}: {tolerance_words(tolerance)}"


def output_lines(difference: OutputsDifference) -> Iterator[str]:
    """Yield the effect of pruning on the first outputs, and its largest effect on the others."""
    for one in difference.outputs[:_OUTPUTS]:
        what = "relative error" if one.floating else "share of elements that differ:"
        yield f"pruned how much: {one.output}: {what} {_share(one.relative)} against the original"
    if others := difference.outputs[_OUTPUTS:]:
        most = OutputsDifference(outputs=others).relative
        yield f"pruned how much: {len(others)} more outputs, at most {_share(most)}: see the report"


def _share(relative: float | None) -> str:
    return "not finite" if relative is None else f"{relative:.3g}"


def _file_lines(report: Report) -> Iterator[str]:
    """Yield the file of the build, and what TensorRT did with its 2:4 products."""
    engine, onnx = report.engine, report.onnx
    if engine is None:
        yield f"onnx: {onnx.path}, {onnx.bytes / 1e6:.1f} MB (no engine: backend onnx)"
        return
    targets = ", ".join(engine.targets)
    yield f"engine: {engine.path}, {engine.bytes / 1e6:.1f} MB, {engine.backend} for {targets}"
    yield from filter(None, [sparsity_words(engine)])
