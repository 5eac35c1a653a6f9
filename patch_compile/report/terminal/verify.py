"""Prints a verification."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from patch_compile.artifacts.layout import VERIFY_FOLDER
from patch_compile.artifacts.proof import Tolerance
from patch_compile.artifacts.report import Kind
from patch_compile.artifacts.tasks import TaskScores
from patch_compile.artifacts.verify import VerifyReport
from patch_compile.artifacts.verify_schema import (
    ComparedRun,
    EngineCompared,
    EngineNotRun,
    ErrorAttribution,
    GeneratedText,
    LimitCheck,
    LinearError,
    OnnxCheck,
    PrunedOutputs,
    PrunedTokens,
)
from patch_compile.report.proof import compared_words, pruned_words, text_words, tolerance_words
from patch_compile.report.tasks import metric_words, task_notes
from patch_compile.report.terminal.baselines import baseline_parts
from patch_compile.report.terminal.console import output_lines
from patch_compile.report.terminal.folding import FoldingTable
from patch_compile.report.terminal.parts import Part
from patch_compile.report.verify import (
    first_difference_words,
    limit_words,
    not_run_words,
    outcome_words,
    run_words,
    unanswered_words,
    where_words,
)

__all__ = ["verified_parts"]

_WORST = 8  # linears that are shown
_NOT_ASKED = "not asked"


def verified_parts(found: VerifyReport, out: Path) -> Iterator[Part]:
    """Yield the result of `verify` of a build in `out`.

    It has the three questions, the places of the error, baselines, tasks, texts, checks and the verdict.
    """
    yield from (*_compiled(found.compiled, found.kind), *_pruned(found.pruned), *_built(found.built))
    yield from _where(found.where)
    if found.baselines:
        yield from baseline_parts(found.baselines)
    yield from _tasks(found.tasks)
    yield from (*_generated(found.generated), *_checks(found.checks), *_verdict(found, out))


def _compiled(answer: OnnxCheck | None, kind: Kind) -> Iterator[str]:
    if answer is None:
        yield f"compiled right: {_NOT_ASKED}"
        return
    verdict = "yes" if answer.passed else "NO"
    yield (
        f"compiled right: {verdict}, hybrid ONNX and {pruned_words(kind)} differ by {_share(answer.error)} of the largest "
        f"output ({_allowed(answer.tolerance)})"
    )
    yield from _runs(answer.runs)
    if answer.passed:
        return
    if answer.output:
        yield f"  the output that differs most: {answer.output}"
    elif first := answer.first_difference:
        yield (
            f"  first tensor that differs: {first.tensor}, made by {first_difference_words(first)}: "
            f"{_share(first.error)} of its largest value, where rounding explains {first.tolerance:.2e}"
        )
    else:
        yield "  no tensor differs from the same graph with dense linears: the fault is in the export, or in that limit"


def _runs(runs: Iterable[ComparedRun]) -> Iterator[str]:
    yield from (f"  {run_words(run)}: {_share(run.error)}" for run in runs if run.stats or run.error is None)


def _pruned(answer: PrunedTokens | PrunedOutputs | None) -> Iterator[str]:
    if answer is None:
        yield f"pruned how much: {_NOT_ASKED}"
    elif isinstance(answer, PrunedOutputs):
        yield from output_lines(answer)
        yield f"  compared on {compared_words(answer.inputs)}"
    else:
        ppl, logits = answer.perplexity, answer.logits
        yield (
            f"pruned how much: perplexity {ppl.dense:.2f} dense, {ppl.pruned:.2f} pruned ({ppl.increase:+.1%}); "
            f"KL {answer.kl:.4f} nats a token; same next token at {answer.top1_agreement:.1%} of positions"
        )
        yield (
            f"  error of a logit: mean {logits.mean:.3g}, median {logits.median:.3g}, rms {logits.rms:.3g}, max "
            f"{logits.max:.3g}, where the largest is {logits.scale:.3g}"
        )
        yield f"  {text_words(answer.on)}"


def _built(answer: EngineCompared | EngineNotRun | None) -> Iterator[str]:
    if answer is None:
        yield f"built right: {_NOT_ASKED}"
    elif isinstance(answer, EngineNotRun):
        yield f"built right: not known here: {not_run_words(answer)}"
    else:
        verdict = "yes" if answer.passed else "NO"
        yield (
            f"built right: {verdict}, engine and hybrid ONNX differ by {_share(answer.error)} of the largest logit "
            f"({_allowed(answer.tolerance)})"
        )
        yield from _runs(answer.runs)


def _allowed(tolerance: Tolerance) -> str:
    return f"allowed {tolerance.share:.2e}: {tolerance_words(tolerance)}"


def _where(where: ErrorAttribution | None) -> Iterator[Part]:
    if where is None:
        return
    rows = sorted(where.linears, key=_cost, reverse=True)
    table = FoldingTable()
    for header in ("where it went: linear", "error", "share", "alone", "restored"):
        table.add_column(header, no_wrap=True, justify="left" if header.startswith("where") else "right")
    for row in rows[:_WORST]:
        table.add_row(
            row.name, f"{row.error:.3f}", f"{row.share:.1%}", _change(row.alone), _change(row.restored)
        )
    yield table
    yield f"{len(rows)} linears, the worst {min(len(rows), _WORST)} shown. {where_words(where)}"
    if blocks := where.blocks:
        some = [blocks[i] for i in sorted({*range(0, len(blocks), -(-len(blocks) // 8)), len(blocks) - 1})]
        depth = ", ".join(f"{row.block}: {row.error:.3f}" for row in some)
        yield f"relative error of the hidden states behind blocks: {depth}"


def _cost(row: LinearError) -> float:
    return row.share if row.alone is None else row.alone


def _change(loss: float | None) -> str:
    return "" if loss is None else f"{loss:+.4f}"


def _tasks(tasks: TaskScores | None) -> Iterator[Part]:
    if tasks is None:
        return
    table = FoldingTable()
    for header in ("task", "metric", "dense", "pruned", "items"):
        table.add_column(header, no_wrap=True, justify="left" if header in ("task", "metric") else "right")
    for row in tasks.rows:
        figures = (_score(row.dense, row.dense_stderr), _score(row.pruned, row.pruned_stderr))
        table.add_row(row.task, metric_words(row), *figures, str(row.samples))
    yield table
    yield f"{tasks.harness}, {tasks.backend}"
    yield from (f"note: {note}" for note in task_notes(tasks))


def _score(value: float | None, error: float | None) -> str:
    if value is None:
        return "not finite"
    return f"{value:.4g}" if error is None else f"{value:.4g} ±{error:.2g}"


def _generated(texts: Iterable[GeneratedText]) -> Iterator[str]:
    for text in texts:
        yield f"prompt: {text.prompt}"
        yield f"  dense:  {text.dense!r}"
        yield f"  hybrid: {text.pruned!r}"
        yield f"  the first {text.same_tokens} of {text.tokens} tokens are the same"


def _checks(checks: Iterable[LimitCheck]) -> Iterator[str]:
    for check in checks:
        yield f"{check.ask} {'holds' if check.passed else 'FAILS'}: {limit_words(check)}"


def _verdict(found: VerifyReport, out: Path) -> Iterator[str]:
    outcome = f"{outcome_words(found.outcome)} in {sum(found.seconds.values()):.0f} s"
    unknown = f": {unanswered_words(found)}" if found.unanswered else ""
    yield f"{outcome}{unknown}; answers, inputs and outputs: {out / VERIFY_FOLDER}"


def _share(error: float | None) -> str:
    return "not finite" if error is None else f"{error:.2e}"
