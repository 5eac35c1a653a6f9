"""Sections on quality: where the error arises, baselines and tasks."""

from __future__ import annotations

import math
from collections.abc import Iterator
from operator import attrgetter

from masklearn import Baseline, BesideBaselines
from masklearn.base.printable import counted
from patch_compile.artifacts.record import Unit
from patch_compile.artifacts.report import Kind, OutputsReport
from patch_compile.artifacts.verify import (
    ErrorAttribution,
    LinearError,
    TaskRow,
    TaskScores,
)
from patch_compile.report.number_format import change, number, percent, perplexity, seconds, spelled
from patch_compile.report.section import Column, Columns, Section, columns_of, table_of

_LISTED = 12  # linears that are shown
_MUCH = 0.5  # relative error of an output; unrelated outputs of one size are 1.4 apart
# Share of zeroed weights, and the relative error of an output that is suspiciously small then.
_MANY, _HARDLY = 0.1, 0.002
_VAGUE = 0.1  # share of the largest output that rounding may move
_WHERE = (
    "Error: how far pruning moves the output of the linear, as a share of that output, on the dense model's inputs; share: "
    "its part in the squared errors of all linears."
)
_ABOUT: dict[str, str] = {
    Baseline.DENSE: "the model as it is",
    Baseline.ROUNDED: "nothing pruned: the cost of rounding alone",
    Baseline.UNIFORM: "every tile 2:4",
    Baseline.UNSTRUCTURED: "no structure: a reference that no kernel runs",
}


def where(errors: ErrorAttribution | None) -> Section:
    if errors is None or not errors.linears:
        return Section()
    rows = sorted(errors.linears, key=lambda row: row.share, reverse=True)[:_LISTED]
    listed = percent(sum(row.share for row in rows))
    caption = (
        f"The {len(rows)} of {len(errors.linears)} linears that most of the error comes from: {listed} of the squared "
        "errors of all"
    )
    lines = [_WHERE]
    if blocks := errors.blocks:
        some = [blocks[i] for i in sorted({*range(0, len(blocks), -(-len(blocks) // 8)), len(blocks) - 1})]
        depth = ", ".join(f"{row.block}: {percent(row.error, 1)}" for row in some)
        lines.append(f"Relative error of the output of blocks: {depth}.")
    cut = [row for row in errors.linears if row.overflow is not None]
    if cut:
        worst = max(cut, key=lambda row: row.overflow or 0.0)
        cutting = sum(bool(row.overflow) for row in cut)
        lines.append(
            f"Static scales cut off activations in {cutting} of {counted(len(cut), 'linear')}, at most "
            f"{percent(worst.overflow or 0.0, 3)} of the elements of X, in {worst.name}."
        )
    return Section(
        "Where the error arises",
        id="error",
        tables=[table_of(rows, columns_of(LinearError), caption)],
        lines=lines,
    )


def baselines(table: BesideBaselines | None) -> Section:
    if table is None:
        return Section()
    dense = next((row.perplexity for row in table.rows if row.name == Baseline.DENSE), None)
    columns: Columns = {
        Column("model", words=True): attrgetter("name"),
        "perplexity": lambda row: perplexity(row.perplexity),
        "against dense": lambda row: change(row.perplexity, dense) if dense else "",
        "ratio": lambda row: spelled(row.ratio, Unit.RATIO),
        "bytes of a weight": lambda row: spelled(row.bytes_per_weight, Unit.RATIO) if row.deployable else "",
        "time to learn": lambda row: seconds(row.seconds) if row.seconds else "",
        Column("description", words=True): lambda row: (
            "this result" if row is table.result else _ABOUT.get(row.name, "")
        ),
    }
    on = f"Perplexity on {counted(table.windows, 'window')} of {table.length} tokens, {table.dtype}"
    how = "baselines are the same model pruned in simpler ways, with SparseGPT's weights and without repair."
    only_dense = all(row is table.result or row.name == Baseline.DENSE for row in table.rows)
    lines = [f"{on}." if only_dense else f"{on}; {how}", *_losses(table), *beaten_lines(table)]
    title = "Perplexity" if only_dense else "Baselines"
    return Section(title, id="baselines", tables=[table_of(table.rows, columns)], lines=lines)


def _losses(table: BesideBaselines) -> Iterator[str]:
    """Yield how much of the loss is rounding's and how much pruning's, if dense weights of the same types were measured."""
    values = {row.name: row.perplexity for row in table.rows[1:]}
    dense, rounded, result = values.get(Baseline.DENSE), values.get(Baseline.ROUNDED), table.result.perplexity
    if dense is None or rounded is None or not all(map(math.isfinite, (dense, rounded, result))):
        return
    yield (
        f"loss: dense {dense:.2f}; rounding its weights alone {rounded - dense:+.2f}, to {rounded:.2f}; pruning on top "
        f"{result - rounded:+.2f}, to {result:.2f}"
    )


def beaten_lines(table: BesideBaselines) -> Iterator[str]:
    result = table.result
    for row in table.rows[1:]:
        if row.name in table.beaten_by:
            yield (
                f"{result.name} is worse than {row.name} and takes as many bytes or more ({result.bytes_per_weight:.3f} a "
                f"weight against {row.bytes_per_weight:.3f})"
            )


def tasks(scores: TaskScores | None) -> Section:
    if scores is None:
        return Section()
    caption = f"{scores.harness} on transformers; ± is one standard error"
    lines = [*_asked(scores), *filter(None, map(_difference, scores.rows))]
    return Section("Tasks", id="tasks", tables=[table_of(scores.rows, _TASK_COLUMNS, caption)], lines=lines)


def _metric(row: TaskRow) -> str:
    return row.metric if row.filter is None else f"{row.metric} ({row.filter})"


def _score(value: float | None, error: float | None) -> str:
    if value is None:
        return "not finite"
    return number(value) if error is None else f"{number(value)} ± {number(error, 2)}"


def _apart(row: TaskRow) -> str:
    if row.pruned is None or row.dense is None:
        return ""
    return f"{'+' * (row.pruned > row.dense)}{number(row.pruned - row.dense)}"


_TASK_COLUMNS: Columns = {
    **columns_of(TaskRow, "task"),
    Column("metric", words=True): _metric,
    "dense": lambda row: _score(row.dense, row.dense_stderr),
    "pruned": lambda row: _score(row.pruned, row.pruned_stderr),
    "difference": _apart,
    **columns_of(TaskRow, "samples"),
}


def _asked(scores: TaskScores) -> Iterator[str]:
    """Yield remarks on how the tasks were asked."""
    if scores.chat_template:
        yield "tasks: asked as plain text; the model has a chat template, which is not applied"
    if scores.cut:
        yield f"tasks: the first {scores.limit} documents of {', '.join(scores.cut)}, not all"


def _difference(row: TaskRow) -> str:
    """Returns a remark on two scores that are less than two standard errors apart, or an empty string."""
    difference = row.difference
    if difference is None:
        return ""
    name, items = f"{row.task}, {_metric(row)}", f"at {row.samples} items"
    if difference.value == difference.error == 0:
        return f"{name}: dense and pruned model are the same on every one of {row.samples} items"
    unit = f" {difference.unit}" if difference.unit else ""
    by = f"{abs(difference.value):.3g}{unit}{' per item' if difference.per_item else ''}"
    size = f"{name}: dense and pruned model differ by {by}"
    if abs(difference.value) <= difference.error:
        return f"{size}, within the standard error of {difference.error:.3g}: not distinguishable {items}"
    if abs(difference.value) < 2 * difference.error:
        errors = abs(difference.value) / difference.error
        return f"{size}, {errors:.1f} standard errors: hardly distinguishable {items}"
    return ""


def output_warnings(report: OutputsReport) -> Iterator[str]:
    """Yield warnings about outputs that pruning has moved far, and about outputs that show little of the compiled model.

    How far embeddings moved is said by their cosine.
    """
    worst = report.difference.worst
    moved_far = worst.relative is None or (worst.relative >= _MUCH and report.embeddings is None)
    if worst.floating and moved_far:
        far = "beyond all finite numbers"
        if worst.relative is not None:
            far = f"by {worst.relative:.0%} of its norm"
        yield f"Pruning moved the output {worst.output!r} {far}. {_how_to_lose_less(report)}"
    zeroed, moved = report.ratio, worst.relative
    if worst.floating and zeroed >= _MANY and moved is not None and moved < _HARDLY:
        yield (
            f"{percent(zeroed)} of the weights are zeroed, and outputs move by only {percent(moved, 1)}: the inputs may not "
            "reach these weights. Give other inputs with --calib."
        )
    allowed = report.agreement.tolerance.share
    if allowed > _VAGUE:
        real = " Give real inputs with --calib." if report.inputs.random else ""
        yield (
            f"On the inputs that outputs are compared on, rounding alone moves them by {allowed:.0%} of the largest, so "
            f"that it hardly shows whether the model was compiled right.{real}"
        )


def _how_to_lose_less(report: OutputsReport) -> str:
    less = "prune less (--ratio), or leave the linears dense that matter most (--exclude)."
    if report.kind is Kind.ONNX and not report.learned.inputs:
        return (
            "The masks were chosen without inputs, and outputs may be compared on unrealistic inputs: give real "
            f"inputs with --calib inputs.npz, and no --method; or {less}"
        )
    return f"To lose less, {less}"
