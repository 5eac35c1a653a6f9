"""Answers the three questions one by one: was it compiled right, how much was pruned, was it built right?"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

from patch_compile.out.engine import BuiltEngine
from patch_compile.out.report import Kind
from patch_compile.report.page.sources import Row, Sources
from patch_compile.report.page.spelling import (
    bytes_of,
    change,
    count,
    found_error,
    joined,
    number,
    percent,
    perplexity,
)
from patch_compile.report.sparse_products import sparsity_words

__all__ = ["AnsweredQuestion", "questions"]

_OUTPUTS = 6  # outputs that are shown; a decoder has two for each layer's cache


@dataclass(frozen=True)
class AnsweredQuestion:
    """A question with its answer.

    answer: a word or a figure; mark: the outcome; facts: (what, value); runs: runs of a comparison, each with its error
    and the statistics of it.
    """

    asked: str
    about: str
    answer: str
    mark: Literal["yes", "no", "open", "figure"]
    facts: list[tuple[str, str]]
    runs: list[Row] = field(default_factory=list)


def questions(sources: Sources) -> list[AnsweredQuestion]:
    """Returns the questions. Each answer rests on the one before it."""
    return [_compiled(sources), _pruned(sources), _built(sources)]


def _compiled(sources: Sources) -> AnsweredQuestion:
    verify = (sources.verify or {}).get("compiled")
    found = verify or sources.report["agreement"]
    checkpoint = sources.kind is Kind.DECODER
    against = found.get("against") or ("pruned checkpoint" if checkpoint else "pruned ONNX")
    about = f"The hybrid ONNX against the {against}, on the same inputs: only rounding may part them."
    facts = _error_facts(found, " of the largest logit" if checkpoint else " of the largest output")
    first = found.get("first_difference")
    if first:
        place = first["linear"] or first["node"]
        facts.append(("first difference", f"{place} ({first['tensor']}), {found_error(first['error'])}"))
    facts.append(("checked by", "verify" if verify else "the build"))
    return AnsweredQuestion(
        "Compiled right?",
        about,
        *_judged(found.get("passed", True)),
        facts,
        _runs(found),
    )


def _pruned(sources: Sources) -> AnsweredQuestion:
    about = "The pruned model against the dense one: what pruning cost, however well it is compiled."
    if (found := sources.perplexity) is not None:
        facts = [("perplexity", f"{perplexity(found['dense'])} dense, {perplexity(found['pruned'])} pruned")]
        facts += _logit_facts(sources)
        answer = f"{change(found['pruned'], found['dense'])} perplexity"
        return AnsweredQuestion(
            "Pruned how much?", about, answer, "figure", [*facts, ("measured on", found["how"])]
        )
    verify, inputs = (sources.verify or {}).get("pruned"), sources.report["inputs"]
    outputs = (verify or sources.report["difference"])["outputs"]
    facts = [
        (
            one["output"],
            f"{percent(one['relative'], 1)} {'of its norm' if one['floating'] else 'of elements differ'}",
        )
        for one in outputs[:_OUTPUTS]
    ]
    if others := [one["relative"] for one in outputs[_OUTPUTS:]]:
        facts.append((f"{len(others)} more outputs", f"{percent(max(others), 1)} at most"))
    how = (
        verify["how"]
        if verify
        else f"{inputs['compared']} run{'s' * (inputs['compared'] != 1)} of {inputs['words']}"
    )
    facts.append(("measured on", how.removeprefix("compared on ")))
    answer = f"{percent(max(one['relative'] for one in outputs), 1)} output error"
    return AnsweredQuestion("Pruned how much?", about, answer, "figure", facts)


def _logit_facts(sources: Sources) -> Iterator[tuple[str, str]]:
    found = (sources.verify or {}).get("pruned") or sources.report["difference"]
    yield "same next token as dense", f"at {percent(found['top1_agreement'], 1)} of positions"
    yield "KL to dense", f"{number(found['kl'])} nats per token"
    if logits := found.get("logits"):
        spread = joined(
            [f"{key} {number(logits[key])}" for key in ("max", "mean", "median", "rms") if key in logits]
        )
        yield "logit errors", f"{spread}; logits reach {number(logits['scale'])}"
    elif "largest_logit_error" in found:
        yield "largest logit error", f"{percent(found['largest_logit_error'], 1)} of the largest logit"
    if tokens := found.get("tokens"):
        yield "tokens compared", count(tokens)


def _built(sources: Sources) -> AnsweredQuestion:
    about = "The engine against the hybrid ONNX: what the builder's kernels do to the numbers."
    built, engine = (sources.verify or {}).get("built"), sources.report["engine"]
    facts = _engine_facts(engine) if engine else [("engine", "none was built")]
    if built and built["ran"]:
        facts = [*_error_facts(built, " of the largest output"), *facts]
        return AnsweredQuestion("Built right?", about, *_judged(built["passed"]), facts, _runs(built))
    why = built["why"] if built else _UNBUILT if engine is None else _UNASKED
    return AnsweredQuestion("Built right?", about, "not run", "open", [*facts, ("why", why)])


_UNBUILT = "there is no engine to ask"
_UNASKED = "an engine runs on a GPU alone; there, patch-compile verify compares it"


def _engine_facts(engine: Row) -> list[tuple[str, str]]:
    facts = [
        ("engine", f"{bytes_of(engine['bytes'])}, {engine['backend']} {engine['version']}"),
        ("targets", joined(engine["targets"])),
    ]
    return [*facts, *([("2:4 products", words)] if (words := sparsity_words(BuiltEngine(**engine))) else [])]


def _error_facts(found: Row, of: str) -> list[tuple[str, str]]:
    return [
        ("largest error", f"{found_error(found['error'])}{of if found['error'] is not None else ''}"),
        ("allowed", number(found["tolerance"])),
        ("reason", found["why"]),
    ]


def _runs(found: Row) -> list[Row]:
    """Returns the runs that have statistics of their own, or values that are not finite."""
    return [run for run in found.get("runs") or [] if run["stats"] or run["error"] is None]


def _judged(passed: bool) -> tuple[str, Literal["yes", "no"]]:
    return ("yes", "yes") if passed else ("no", "no")
