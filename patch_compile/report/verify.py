"""Sections on the three questions about a build: compiled right, pruned how much, built right? And their verdict."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from operator import attrgetter
from pathlib import Path

from patch_compile.artifacts.engine import BuiltEngine, EngineDetails
from patch_compile.artifacts.layout import VERIFY_FOLDER
from patch_compile.artifacts.proof import (
    Agreement,
    BuildPerplexity,
    ComparedInputs,
    EmbeddingsDifference,
    LastWords,
    OutputsDifference,
    TextWindows,
    Tolerance,
    ToleranceOrigin,
    WindowAgreement,
)
from patch_compile.artifacts.report import DecoderReport, Kind, OutputsReport
from patch_compile.artifacts.verify import (
    ComparedRun,
    EngineCompared,
    EngineNotRun,
    ErrorStats,
    LimitCheck,
    NotRun,
    OnnxCheck,
    PrunedOutputs,
    PrunedPerplexity,
    PrunedTokens,
    Question,
    VerifyReport,
)
from patch_compile.report.loss import GIVE_DENSE, NO_DENSE, embedding_words
from patch_compile.report.number_format import (
    bytes_of,
    change,
    found_error,
    joined,
    number,
    percent,
    perplexity,
    seconds,
    spelled,
)
from patch_compile.report.quality import baselines, tasks, where
from patch_compile.report.section import Column, Columns, Fact, Section, Table, columns_of, facts, table_of
from patch_compile.sources.rounding import DEVIATIONS, UNIT_ROUNDOFF

_OUTPUTS = 6  # outputs that are shown; a decoder has two for each layer's cache
_MEASURED = {
    ToleranceOrigin.ROUNDED_LINEARS: "the effect of rounding X and Y of the same linears on the pruned model",
    ToleranceOrigin.ROUNDED_INPUTS: "twice the effect of rounding X and Y of the same linears, which round X to "
    "int8, on the pruned model",
    ToleranceOrigin.SIXTEEN_BITS: "twice the effect of 16 bits instead of fp32 on the pruned model",
}
_NO_TENSOR = (
    "none: the same graph with dense linears differs as much, so the fault is in the export, or in that limit"
)
_UNANSWERED = {
    Question.COMPILED: "whether it was compiled right",
    Question.PRUNED: "how much was pruned away",
    Question.BUILT: "whether the engine was built right",
    Question.WHERE: "where the error arises",
}
_NOT_RUN = {
    NotRun.NO_ENGINE: "there is no engine: it was built with the backend onnx",
    NotRun.NO_RUNTIME: "engines of encoders and of ONNX files are compared with Polygraphy: samples/trtexec.md",
}


def verified(report: VerifyReport, out: Path) -> Iterator[Section]:
    yield compiled(report.compiled, report.kind)
    yield pruned(report.pruned, dense_given=report.dense_given)
    yield built(report.built)
    yield from (where(report.where), baselines(report.baselines), tasks(report.tasks))
    judged = {True: "holds", False: "FAILS"}
    limits = [(check.ask, f"{judged[check.passed]}: {limit_words(check)}") for check in report.checks]
    yield Section("Limits" * bool(limits), facts=limits)
    unknown = f": {unanswered_words(report)}" if report.unanswered else ""
    took = seconds(sum(report.seconds.values()))
    files = f"answers, inputs and outputs: {out / VERIFY_FOLDER}"
    yield Section(report.outcome.words, answer=f"in {took}{unknown}", lines=[files])


def compiled(answer: OnnxCheck | Agreement | None, kind: Kind) -> Section:
    """Returns the question whether the ONNX file computes the same as the pruned model, with its answer."""
    model = "ONNX" if kind is Kind.ONNX else "checkpoint"
    about = f"The hybrid ONNX against the pruned {model}, on the same inputs: only rounding may part them."
    asked = Section("Compiled right?", about=about)
    of = "logit" if kind is Kind.DECODER else "output"
    if answer is None:
        return replace(asked, answer="not asked", mark="open")
    if isinstance(answer, Agreement):
        details = [
            *_error_facts(answer.error, answer.tolerance, of),
            *_window(answer.window),
            ("checked by", "the build"),
        ]
        return replace(asked, answer="yes", mark="yes", facts=details)
    errors = [*_error_facts(answer.error, answer.tolerance, of), *([] if answer.passed else _place(answer))]
    return replace(_judged(asked, answer.passed, answer.runs), facts=[*errors, ("checked by", "verify")])


def _window(window: WindowAgreement | None) -> Iterator[Fact]:
    if window:
        made, expected = perplexity(window.hybrid), perplexity(window.pruned)
        yield "first window", f"perplexity {made} by ONNX Runtime, {expected} by the pruned checkpoint"


def _place(check: OnnxCheck) -> Iterator[Fact]:
    first = check.first_difference
    if check.output:
        yield "differs most", check.output
    elif first is None:
        yield "first difference", _NO_TENSOR
    else:
        made = f"the linear {first.linear}" if first.linear else f"the node {first.node} ({first.op})"
        error = f"{found_error(first.error)} of its largest value, where rounding explains {number(first.tolerance)}"
        yield "first difference", f"{first.tensor}, made by {made}: {error}"


def pruned(
    found: PrunedTokens | PrunedOutputs | DecoderReport | OutputsReport | None, *, dense_given: bool = True
) -> Section:
    """Returns the question how far pruning moved the model, as `verify` or the build answers it."""
    about = "The pruned model against the dense model: the cost of pruning, however well it is compiled."
    asked = Section("Pruned how much?", about=about)
    match found:
        case None:
            return replace(asked, answer="not asked", mark="open")
        case _ if not dense_given:
            ppl = None if isinstance(found, PrunedOutputs | OutputsReport) else found.perplexity
            told = [("perplexity", f"{perplexity(ppl.pruned)} pruned")] if ppl else []
            answer, lines = "not known: the dense model was not given", [NO_DENSE, GIVE_DENSE]
            return replace(asked, answer=answer, mark="open", facts=told, lines=lines)
        case PrunedTokens(perplexity=ppl, logits=logits):
            spread = joined(list(map(" ".join, facts(logits))))
            more = ("logit errors", f"{spread}; logits reach {number(logits.scale)}")
            return _tokens(asked, ppl, [*facts(found), more], found.on)
        case DecoderReport(perplexity=ppl):
            more = ("largest logit error", f"{percent(found.agreement.dense_error, 1)} of the largest logit")
            words = found.last_words
            last = []
            if words:
                shares = f"{percent(words.dense)} dense, {percent(words.pruned)} pruned"
                last = [("last words found", f"{shares}; {found_words(words)}")]
            return _tokens(asked, ppl, [*facts(found.difference), *last, more], ppl.on)
        case PrunedOutputs():
            return _outputs(asked, found, found.inputs, found.embeddings)
        case OutputsReport():
            return _outputs(asked, found.difference, found.inputs, found.embeddings)


def _tokens(
    asked: Section, ppl: PrunedPerplexity | BuildPerplexity, figures: Sequence[Fact], on: TextWindows
) -> Section:
    both = ("perplexity", ", ".join(f"{value} {model}" for model, value in facts(ppl)))
    details = [both, *figures, ("measured on", str(on))]
    return replace(asked, answer=f"{change(ppl.pruned, ppl.dense)} perplexity", facts=details)


def found_words(words: LastWords) -> str:
    """Returns how many texts were asked, and how far chance moves the difference of the models."""
    return f"{words.texts} texts, difference ± {percent(words.error)}"


def _outputs(
    asked: Section,
    difference: OutputsDifference,
    inputs: ComparedInputs,
    embeddings: EmbeddingsDifference | None,
) -> Section:
    of = {True: "of its norm", False: "of elements differ"}
    shown = difference.outputs[:_OUTPUTS]
    details = [(output.output, f"{_share(output.relative)} {of[output.floating]}") for output in shown]
    if others := difference.outputs[_OUTPUTS:]:
        most = OutputsDifference(outputs=others).relative
        details.append((f"{len(others)} more outputs", f"{_share(most)} at most"))
    details.append(("measured on", str(inputs)))
    if inputs.random:
        return replace(asked, answer="not known: random inputs", mark="open", facts=details)
    if embeddings:
        answer = f"cosine {embeddings.mean:.3f} to dense embeddings"
        details = [("embeddings", embedding_words(embeddings)), *facts(embeddings), *details]
        return replace(asked, answer=answer, facts=details)
    return replace(asked, answer=f"{_share(difference.relative)} output error", facts=details)


def _share(relative: float | None) -> str:
    return "not finite" if relative is None else percent(relative, 1)


def built(check: EngineCompared | EngineNotRun | None, engine: BuiltEngine | None = None) -> Section:
    """Returns the question whether the engine computes the same as the ONNX file, with its answer."""
    about = "The engine against the hybrid ONNX: the effect of the builder's kernels on the numbers."
    asked = Section("Built right?", about=about)
    about_engine = list(_engine(engine)) if engine else []
    if isinstance(check, EngineCompared):
        errors = _error_facts(check.error, check.tolerance, "output")
        return replace(_judged(asked, check.passed, check.runs), facts=[*errors, *about_engine])
    why = "not asked"
    if check:
        why = _NOT_RUN.get(check.reason) or check.error or "this machine cannot run it"
    elif engine:
        why = "an engine runs only on a GPU; there, patch-compile verify compares it"
    return replace(asked, answer="not checked", mark="open", facts=[*about_engine, ("why", why)])


def _engine(engine: BuiltEngine) -> Iterator[Fact]:
    yield "engine", f"{bytes_of(engine.bytes)}, {engine.backend} {engine.version}"
    yield "targets", joined(engine.targets)
    if words := sparsity_words(engine):
        yield "2:4 GEMMs", words


def sparsity_words(engine: EngineDetails) -> str:
    """Returns one sentence, empty for an engine without 2:4 weights that TensorRT's own tactics could run."""
    parts, tactics = engine.sparse_parts, engine.sparse_tactics
    if tactics is None:
        return (
            f"TensorRT-RTX has no 2:4 tactics of its own: the {parts} 2:4 GEMMs of split linears run densely; only "
            "--lowering plugin is sparse there"
        ) * bool(parts)
    eligible, chosen = tactics.eligible, tactics.chosen
    if eligible is None or chosen is None:
        return (
            f"TensorRT logged nothing about 2:4 tactics; whether the {parts} 2:4 GEMMs run 2:4 is not known"
        )
    if eligible == 0:
        return f"TensorRT found no weight 2:4, so the {parts} 2:4 GEMMs of the graph run densely"
    if chosen == 0:
        return (
            f"TensorRT chose no 2:4 tactic for any of {eligible} eligible layers: it timed dense tactics as "
            "faster, so split brings no speed here; --lowering plugin is the other way"
        )
    return f"TensorRT chose 2:4 tactics for {chosen} of {eligible} eligible layers"


def _judged(asked: Section, passed: bool, runs: Iterable[ComparedRun]) -> Section:
    folded = [Section("Run by run", tables=[table])] if (table := _runs(runs)).rows else []
    return replace(asked, answer="yes" if passed else "NO", mark="yes" if passed else "no", folded=folded)


def _runs(runs: Iterable[ComparedRun]) -> Table:
    """Returns the runs that have statistics of their own, or values that are not finite."""
    columns: Columns = {
        Column("run", words=True): str,
        "error": lambda run: found_error(run.error),
        **columns_of(ErrorStats, of=attrgetter("stats")),
    }
    caption = "Largest error as a share of the largest value, then statistics of |difference| in the outputs' own unit"
    return table_of((run for run in runs if run.stats or run.error is None), columns, caption)


def _error_facts(error: float | None, tolerance: Tolerance, of: str) -> list[Fact]:
    whole = f"the norm of the {of}s" if tolerance.by_norm else f"the largest {of}"
    share = found_error(error) + (f" of {whole}" if error is not None else "")
    return [
        ("norm of the error" if tolerance.by_norm else "largest error", share),
        *facts(tolerance),
        ("derivation", tolerance_words(tolerance)),
    ]


def tolerance_words(tolerance: Tolerance) -> str:
    if asked := tolerance.asked:
        flags = f"--atol {asked.atol:g} --rtol {asked.rtol:g} --check-error-stat {asked.statistic}"
        return f"as asked: {flags}, in logits"
    words = _MEASURED.get(tolerance.origin) or _derived(tolerance)
    return words if tolerance.rounding_models == 1 else f"{tolerance.rounding_models} × {words}: both round"


def _derived(tolerance: Tolerance) -> str:
    assert tolerance.dtype is not None  # a derived tolerance has a type
    layers = "" if tolerance.layers is None else f" in {tolerance.layers} layers"
    roundoff = f"u = {UNIT_ROUNDOFF[tolerance.dtype]:.2e} for {tolerance.dtype}"
    return f"{DEVIATIONS:g}·u·√n, {roundoff}, n = {tolerance.roundings} roundings{layers}"


def limit_words(check: LimitCheck) -> str:
    of, side = check.figure.shown, "at least" if check.at_least else "at most"
    value = "not finite" if check.value is None else spelled(check.value, of.unit)
    return f"{of.title} is {value}, {side} {spelled(check.limit, of.unit)} is asked"


def unanswered_words(report: VerifyReport) -> str:
    """Returns the questions that have no answer as a clause, empty if there are none."""
    unanswered, parts = set(report.unanswered), []
    no_engine = isinstance(report.built, EngineNotRun) and report.built.reason is NotRun.NO_ENGINE
    if no_engine and Question.BUILT in unanswered:
        unanswered.remove(Question.BUILT)
        parts = ["there is no engine to check"]
    if unanswered:
        questions = " and ".join(words for question, words in _UNANSWERED.items() if question in unanswered)
        parts.append(f"it is not known {questions}")
    return ", and ".join(parts)
