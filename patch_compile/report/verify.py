"""Puts the answers of `verify` into words."""

from __future__ import annotations

from patch_compile.artifacts.verify import Outcome, Question, VerifyReport
from patch_compile.artifacts.verify_schema import (
    ComparedRun,
    EngineNotRun,
    ErrorAttribution,
    FigureName,
    FirstDifference,
    LimitCheck,
    NotRun,
)

__all__ = [
    "figure_words",
    "first_difference_words",
    "limit_words",
    "not_run_words",
    "outcome_words",
    "run_words",
    "unanswered_words",
    "where_words",
]

_OUTCOMES = {
    Outcome.PASSED: "PASSED",
    Outcome.FAILED: "FAILED",
    Outcome.NOT_CHECKED: "NOT CHECKED",
}
_UNANSWERED = {
    Question.COMPILED: "whether it was compiled right",
    Question.PRUNED: "how much was pruned away",
    Question.BUILT: "whether the engine was built right",
    Question.WHERE: "where the error arises",
}
_FIGURES = {
    FigureName.PPL: "perplexity",
    FigureName.KL: "KL to the dense model, nats per token",
    FigureName.TOP1: "share of positions with the dense model's next token",
    FigureName.LOGITS: "mean error of a logit, in logits",
    FigureName.OUTPUT: "largest relative error of an output",
}
_WHERE = (
    "error: how far pruning moves the output of the linear, as a share of that output, on the dense model's inputs; share: "
    "its part in the squared errors of all linears"
)
_WHERE_TRIED = (
    "; alone: change of the loss in nats per token if this linear alone is pruned; restored: if it alone is dense again; "
    "both over {tokens} tokens"
)


def outcome_words(outcome: Outcome) -> str:
    """Returns the verdict in capitals."""
    return _OUTCOMES[outcome]


def unanswered_words(found: VerifyReport) -> str:
    """Returns the questions that have no answer as a clause, empty if there are none."""
    built, unanswered = found.built, set(found.unanswered)
    parts = []
    if isinstance(built, EngineNotRun) and built.reason is NotRun.NO_ENGINE and Question.BUILT in unanswered:
        unanswered.remove(Question.BUILT)
        parts = ["there is no engine to check"]
    if unanswered:
        open_questions = " and ".join(
            words for question, words in _UNANSWERED.items() if question in unanswered
        )
        parts.append(f"it is not known {open_questions}")
    return ", and ".join(parts)


def figure_words(figure: FigureName) -> str:
    """Returns the meaning of a figure."""
    return _FIGURES[figure]


def limit_words(check: LimitCheck) -> str:
    """Returns a figure beside its limit."""
    value = "not finite" if check.value is None else f"{check.value:.4g}"
    side = "at least" if check.at_least else "at most"
    return f"{figure_words(check.figure)} is {value}, {side} {check.limit:.4g} is asked"


def run_words(run: ComparedRun) -> str:
    """Returns the phase of a run and its number of tokens."""
    if run.phase == "whole":
        return "whole run"
    count = run.past if run.phase == "decode" else run.tokens
    tokens = f"{count} token{'s' * (count != 1)}"
    return f"decode, behind {tokens}" if run.phase == "decode" else f"prefill, {tokens}"


def not_run_words(answer: EngineNotRun) -> str:
    """Returns the reason why an engine was not run."""
    if answer.reason is NotRun.NO_ENGINE:
        return "there is no engine: it was built with the backend onnx"
    if answer.reason is NotRun.NO_RUNTIME:
        return "engines of encoders and of ONNX files are compared with Polygraphy: samples/trtexec.md"
    return answer.error or "this machine cannot run it"


def first_difference_words(first: FirstDifference) -> str:
    """Returns the place of the first wrong tensor."""
    return f"the linear {first.linear}" if first.linear else f"the node {first.node} ({first.op})"


def where_words(where: ErrorAttribution) -> str:
    """Returns an explanation of the figures of linears."""
    return _WHERE if where.tokens is None else _WHERE + _WHERE_TRIED.format(tokens=where.tokens)
