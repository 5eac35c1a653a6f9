"""Answers the three questions one by one: was it compiled right, how much was pruned, was it built right?"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Literal

from patch_compile.artifacts.engine import BuiltEngine
from patch_compile.artifacts.proof import OutputsDifference, Tolerance
from patch_compile.artifacts.report import DecoderReport, Kind
from patch_compile.artifacts.verify_schema import ComparedRun, EngineCompared
from patch_compile.report.page.number_format import (
    bytes_of,
    change,
    count,
    found_error,
    joined,
    number,
    percent,
    perplexity,
)
from patch_compile.report.page.page_data import Sources
from patch_compile.report.proof import compared_words, pruned_words, tolerance_words
from patch_compile.report.sparse_products import sparsity_words
from patch_compile.report.verify import not_run_words, run_words

__all__ = ["AnsweredQuestion", "questions"]

_OUTPUTS = 6  # outputs that are shown; a decoder has two for each layer's cache


@dataclass(frozen=True)
class AnsweredQuestion:
    """A question with its answer.

    answer: a word or a figure; mark: the outcome; facts: (what, value); runs: runs of a comparison, each with
    its name.
    """

    asked: str
    about: str
    answer: str
    mark: Literal["yes", "no", "open", "figure"]
    facts: list[tuple[str, str]]
    runs: list[tuple[str, ComparedRun]] = field(default_factory=list)


def questions(sources: Sources) -> list[AnsweredQuestion]:
    """Returns the questions. Each answer rests on the one before it."""
    return [_compiled(sources), _pruned(sources), _built(sources)]


def _compiled(sources: Sources) -> AnsweredQuestion:
    answer = sources.verify.compiled if sources.verify else None
    about = f"The hybrid ONNX against the {pruned_words(sources.kind)}, on the same inputs: only rounding may part them."
    of = " of the largest logit" if sources.kind is Kind.DECODER else " of the largest output"
    if answer is None:
        agreement = sources.report.agreement
        facts = [*_error_facts(agreement.error, agreement.tolerance, of), ("checked by", "the build")]
        return AnsweredQuestion("Compiled right?", about, *_judged(passed=True), facts)
    facts = _error_facts(answer.error, answer.tolerance, of)
    if answer.output and not answer.passed:
        facts.append(("differs most", answer.output))
    if first := answer.first_difference:
        place = first.linear or first.node
        facts.append(("first difference", f"{place} ({first.tensor}), {found_error(first.error)}"))
    facts.append(("checked by", "verify"))
    return AnsweredQuestion(
        "Compiled right?", about, *_judged(passed=answer.passed), facts, _runs(answer.runs)
    )


def _pruned(sources: Sources) -> AnsweredQuestion:
    about = "The pruned model against the dense one: what pruning cost, however well it is compiled."
    if (found := sources.perplexity) is not None:
        facts = [("perplexity", f"{perplexity(found.dense)} dense, {perplexity(found.pruned)} pruned")]
        facts += _logit_facts(sources)
        answer = f"{change(found.pruned, found.dense)} perplexity"
        return AnsweredQuestion(
            "Pruned how much?", about, answer, "figure", [*facts, ("measured on", found.how)]
        )
    assert sources.outputs is not None  # a model has perplexities or outputs
    difference, inputs = sources.outputs
    facts = [
        (one.output, f"{_share(one.relative)} {'of its norm' if one.floating else 'of elements differ'}")
        for one in difference.outputs[:_OUTPUTS]
    ]
    if others := difference.outputs[_OUTPUTS:]:
        most = OutputsDifference(outputs=others).relative
        facts.append((f"{len(others)} more outputs", f"{_share(most)} at most"))
    facts.append(("measured on", compared_words(inputs)))
    answer = f"{_share(difference.relative)} output error"
    return AnsweredQuestion("Pruned how much?", about, answer, "figure", facts)


def _share(relative: float | None) -> str:
    return "not finite" if relative is None else percent(relative, 1)


def _logit_facts(sources: Sources) -> Iterator[tuple[str, str]]:
    answer, report = sources.predictions, sources.report
    assert isinstance(report, DecoderReport)
    found = answer or report.difference
    yield "same next token as dense", f"at {percent(found.top1_agreement, 1)} of positions"
    yield "KL to dense", f"{number(found.kl)} nats per token"
    if answer:
        logits = answer.logits
        stats = (("max", logits.max), ("mean", logits.mean), ("median", logits.median), ("rms", logits.rms))
        spread = joined([f"{key} {number(value)}" for key, value in stats])
        yield "logit errors", f"{spread}; logits reach {number(logits.scale)}"
        yield "tokens compared", count(answer.tokens)
    else:
        error = report.agreement.dense_error
        yield "largest logit error", f"{percent(error, 1)} of the largest logit"


def _built(sources: Sources) -> AnsweredQuestion:
    about = "The engine against the hybrid ONNX: what the builder's kernels do to the numbers."
    answer, engine = sources.verify.built if sources.verify else None, sources.report.engine
    facts = _engine_facts(engine) if engine else [("engine", "none was built")]
    if isinstance(answer, EngineCompared):
        facts = [*_error_facts(answer.error, answer.tolerance, " of the largest output"), *facts]
        return AnsweredQuestion(
            "Built right?", about, *_judged(passed=answer.passed), facts, _runs(answer.runs)
        )
    why = not_run_words(answer) if answer else _UNBUILT if engine is None else _UNASKED
    return AnsweredQuestion("Built right?", about, "not checked", "open", [*facts, ("why", why)])


_UNBUILT = "there is no engine to ask"
_UNASKED = "an engine runs on a GPU alone; there, patch-compile verify compares it"


def _engine_facts(engine: BuiltEngine) -> list[tuple[str, str]]:
    facts = [
        ("engine", f"{bytes_of(engine.bytes)}, {engine.backend} {engine.version}"),
        ("targets", joined(engine.targets)),
    ]
    return [*facts, *([("2:4 products", words)] if (words := sparsity_words(engine)) else [])]


def _error_facts(error: float | None, tolerance: Tolerance, of: str) -> list[tuple[str, str]]:
    return [
        ("largest error", f"{found_error(error)}{of if error is not None else ''}"),
        ("allowed", number(tolerance.share)),
        ("derivation", tolerance_words(tolerance)),
    ]


def _runs(runs: Iterable[ComparedRun]) -> list[tuple[str, ComparedRun]]:
    """Returns the runs that have statistics of their own, or values that are not finite, each with its name."""
    return [(run_words(run), run) for run in runs if run.stats or run.error is None]


def _judged(*, passed: bool) -> tuple[str, Literal["yes", "no"]]:
    return ("yes", "yes") if passed else ("no", "no")
