"""The top of the page: three lights, the build in a sentence, warnings, and key figures to compare builds by."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from masklearn.masks.kinds.base import BYTES_DENSE
from masklearn.quant.table import weight_type
from patch_compile.artifacts.bench import Phase
from patch_compile.artifacts.prediction import PAYS
from patch_compile.artifacts.report import DecoderReport, Kind, OutputsReport
from patch_compile.artifacts.verify import EngineCompared, Outcome, VerifyReport
from patch_compile.planning.roofline.linear_roofline import speedup_limit
from patch_compile.report.bench import IN_PHASE
from patch_compile.report.linears import compiled_types, types_words
from patch_compile.report.loss import (
    GIVE_DENSE,
    NO_DENSE,
    Colour,
    embedding_words,
    limits_words,
    loss_of,
)
from patch_compile.report.number_format import (
    bytes_of,
    change,
    found_error,
    joined,
    number,
    percent,
    perplexity,
    times,
)
from patch_compile.report.page.page_data import Sources
from patch_compile.report.prediction import asked_words, interval, predicted_times, split_words
from patch_compile.report.quality import beaten_lines, output_warnings
from patch_compile.report.verify import found_words, limit_words, unanswered_words

_FASTER = 1.05  # speed-up from which the light is green


@dataclass(frozen=True)
class Light:
    """A light. answer: a word or a figure; why: the facts that decided the colour, in sentences."""

    asked: str
    colour: Colour
    answer: str
    why: str


def lights(sources: Sources) -> list[Light]:
    answers = {"Right?": _right, "How much lost?": _lost, "How fast?": _fast}
    return [Light(asked, *answer(sources)) for asked, answer in answers.items()]


def _right(sources: Sources) -> tuple[Colour, str, str]:
    verify, built = sources.verify, sources.report.engine is not None
    engine = verify.built if verify and isinstance(verify.built, EngineCompared) else None
    if verify and verify.compiled and not verify.compiled.passed:
        return "red", "No", "The ONNX file computes something else than the pruned model."
    if engine and not engine.passed:
        return "red", "No", "The engine computes something else than the ONNX file."
    if built and not engine:
        why = "The ONNX file computes what the pruned model computes. The engine was not run yet."
        return "yellow", "Not all checked", why
    what = "ONNX file and engine compute" if built else "The ONNX file computes"
    return "green", "Yes", f"{what} what the pruned model computes, up to rounding."


def _lost(sources: Sources) -> tuple[Colour, str, str]:
    colour, limit = _judged(sources)
    if not sources.report.dense_given:
        return colour, "Not known: no dense model", f"{NO_DENSE} {GIVE_DENSE}{limit}"
    if (found := sources.perplexity) is not None:
        on = "held-out text" if found.held_out else "text that the model wrote"
        why = f"Perplexity on {on}: {perplexity(found.dense)} dense, {perplexity(found.pruned)} pruned."
        return colour, f"{change(found.pruned, found.dense)} perplexity", f"{why}{limit}"
    assert sources.outputs is not None  # a model has perplexities or outputs
    if colour == "grey":
        return colour, "Not known: random inputs", "Give real inputs to `build`, with --calib inputs.npz."
    if (embeddings := sources.embeddings) is not None:
        why = f"Cosine to the dense embeddings: {embedding_words(embeddings)}."
        return colour, f"{embeddings.mean:.3f} cosine to dense", f"{why}{limit}"
    worst = sources.outputs.worst
    answer = "not finite" if worst.relative is None else f"{percent(worst.relative, 1)} output error"
    return colour, answer, f"The output that moves most is {worst.output}.{limit}"


def _judged(sources: Sources) -> tuple[Colour, str]:
    """Returns the colour of the loss, grey if it is not known, and what it is held to: the user's limits if there are
    any."""
    checks = sources.verify.checks if sources.verify else ()
    if failed := [check.ask for check in checks if not check.passed]:
        return "red", f" It is beyond the limit {joined(failed)}."
    loss = loss_of(sources.pruned) if sources.report.dense_given else None
    if loss is None:
        return "grey", ""
    rivals = sources.baselines.beaten_by if sources.baselines else ()
    simpler = f" A simpler way of pruning loses less: {joined(rivals)}." if rivals else ""
    if checks:
        asked = joined([check.ask for check in checks])
        return "yellow" if rivals else "green", f" It keeps the limit {asked}.{simpler}"
    colour = "yellow" if rivals and loss.colour == "green" else loss.colour
    return colour, f" {limits_words(loss, sources.report)}{simpler}"


def _fast(sources: Sources) -> tuple[Colour, str, str]:
    if measured := sources.measured_first:
        speedups = {phase: measured[phase][1] for phase in Phase if phase in measured}
        assert sources.bench is not None
        low, high = min(speedups.values()), max(speedups.values())
        answer = times(low) if len(speedups) == 1 else f"{times(low)} to {times(high)}"
        each = joined([f"{times(speedup)} {IN_PHASE[phase]}" for phase, speedup in speedups.items()])
        why = f"Measured on {sources.bench.device.name} against the dense engine: {each}."
        return _speed_colour(low, high), answer, why
    whole, card = sources.whole, sources.report.plan.card
    if whole is None or card is None:
        return "grey", "Not known", "No speed is predicted for this model and target, and none was measured."
    split = f": {words}" if (words := split_words(whole.end_to_end)) else ""
    why = f"Predicted for {card.name}, not measured{split}."
    return "grey", f"{predicted_times(whole.end_to_end)} predicted", why


def _speed_colour(low: float, high: float) -> Colour:
    """Returns the colour of speed-ups over the dense model. high: the one that counts if phases differ."""
    if high < 1.0:
        return "red"
    return "green" if low >= 1.0 and high >= _FASTER else "yellow"


_PHASES = {"prefill": "Prefill", "decode": "Decode", "end_to_end": "End to end"}


@dataclass(frozen=True)
class KeyFigure:
    """A figure. about: lines below the value."""

    label: str
    value: str
    about: list[str]


def key_figures(sources: Sources) -> list[KeyFigure]:
    parts = _ratio_figure, _quality_figure, _size_figure, _speed_figures
    return [figure for part in parts for figure in part(sources)]


def _ratio_figure(sources: Sources) -> Iterator[KeyFigure]:
    ratio, asked = sources.report.ratio, sources.report.asked
    amount = percent(asked.ratio, 1) if isinstance(asked.ratio, float) else asked_words(asked)
    about = [f"asked: {amount}", _in_tiles(sources), f"method {sources.report.method}"]
    yield KeyFigure("Weights zeroed", percent(ratio, 1), about)


def _quality_figure(sources: Sources) -> Iterator[KeyFigure]:
    found = sources.perplexity
    if not sources.report.dense_given:
        if found is not None:
            about = ["the dense model was not given", found.how]
            yield KeyFigure("Perplexity", perplexity(found.pruned), about)
        return
    if found is not None:
        about = [f"dense {perplexity(found.dense)}, {change(found.pruned, found.dense)}", found.how]
        yield KeyFigure("Perplexity", perplexity(found.pruned), about)
        if isinstance(sources.report, DecoderReport) and (words := sources.report.last_words):
            about = [f"dense {percent(words.dense)}", found_words(words)]
            yield KeyFigure("Last words found", percent(words.pruned), about)
        return
    assert sources.outputs is not None  # a model has perplexities or outputs
    worst = sources.outputs.worst
    if (embeddings := sources.embeddings) is not None:
        about = [f"worst {embeddings.worst:.3f}", f"different texts {embeddings.different:.3f}"]
        yield KeyFigure("Cosine to dense", f"{embeddings.mean:.3f}", about)
    elif worst.floating:
        about = [f"of {worst.output}, relative, against the dense model"]
        yield KeyFigure("Output error", percent(worst.relative, 1), about)


def _size_figure(sources: Sources) -> Iterator[KeyFigure]:
    totals, engine = sources.report.plan.totals, sources.report.engine
    before, after = totals.bytes_before, totals.bytes_after
    file = f"engine {bytes_of(engine.bytes)}" if engine else f"ONNX {bytes_of(sources.report.onnx.bytes)}"
    types = types_words(compiled_types(sources.report.linears))
    about = [f"dense {bytes_of(before)}, {change(after, before)}", f"whole {file}", *filter(None, [types])]
    yield KeyFigure("Covered weights", bytes_of(after), about)


def _speed_figures(sources: Sources) -> Iterator[KeyFigure]:
    whole, card = sources.whole, sources.report.plan.card
    measured = sources.measured_first
    phases: tuple[str, ...] = (Phase.WHOLE,) if Phase.WHOLE in measured else sources.phases
    for phase in phases:
        label = f"{_PHASES[phase]} speed" if len(phases) > 1 else "Speed"
        limit = getattr(whole, phase).limit if whole else _limit_of(sources, phase)
        beside = [f"limit {times(limit)}"] if limit else []
        if phase in measured:
            row, speedup = measured[phase]
            predicted = [f"predicted {times(row.predicted.speedup)}"] if row.predicted else []
            beside = [f"limit {times(row.limit)}"] if row.limit else beside
            about = [f"measured, batch {row.batch}", *predicted, *beside]
            yield KeyFigure(label, times(speedup), about)
        elif whole and card:
            row = getattr(whole, phase)
            about = [f"predicted {interval(row)}, {card.name}", *filter(None, [split_words(row)]), *beside]
            yield KeyFigure(label, times(row.speedup), about)
        elif beside:
            about = ["neither predicted nor measured", f"with {_in_tiles(sources)}"]
            yield KeyFigure(label, f"≤ {times(limit)}", about)


def _limit_of(sources: Sources, phase: str) -> float:
    """Returns the limit that follows from the masks, 0 without one: the card decides how much faster int8 products are."""
    if phase == "decode":
        return BYTES_DENSE / sources.masks.packed_bytes_per_weight
    int8 = any(weight_type(row.weights).input_bits == 8 for row in sources.report.linears)
    return 0.0 if phase != "prefill" or int8 else speedup_limit(sources.share, "tensor")


def _in_tiles(sources: Sources) -> str:
    return f"{percent(sources.pruned_share)} of weights in {sources.pruned_kinds} tiles"


@dataclass(frozen=True)
class Notice:
    """A warning, or a next step.

    level: `fault` if a check failed, `caution` if the user may want to decide otherwise, `next` for a step that finds out
    more, by `command`.
    """

    level: Literal["fault", "caution", "next"]
    text: str
    command: str = ""


def verdict(sources: Sources) -> dict[str, Any]:
    """Returns the top of the page for the template. lead: a sentence on the build; warnings: the most important first."""
    order = {"fault": 0, "caution": 1, "next": 2}
    return {
        "lead": _built(sources),
        "lights": lights(sources),
        "figures": key_figures(sources),
        "warnings": sorted(_warnings(sources), key=lambda notice: order[notice.level]),
    }


def _built(sources: Sources) -> str:
    report, share = sources.report, sources.pruned_share
    ratio, engine = percent(report.ratio, 1), report.engine
    many = len(report.linears)
    linears = f"its {many} covered linears" if many > 1 else "its covered linear"
    form = "an ONNX file; no engine was built"
    if engine:
        form = f"a {engine.backend.words} engine for {joined(engine.targets)}"
    return (
        f"{sources.pruned_kinds} tiles hold {percent(share)} of the weights in {linears}; {ratio} of these weights are "
        f"zeroed. The model is compiled to {form}."
    )


def _warnings(sources: Sources) -> Iterator[Notice]:
    yield from _of_ratio(sources)
    if isinstance(sources.report, OutputsReport):
        yield from (Notice("caution", line) for line in output_warnings(sources.report))
    yield from _of_speed(sources)
    verify = sources.verify
    for reason in sources.unread:
        yield Notice("caution", f"A verification is not shown here: {reason}")
    if verify is None and (words := _NOT_MEASURED.get(sources.report.kind)):
        yield Notice("next", f"Not measured yet: {words}. Begin with:", f"patch-compile verify {sources.out}")
    elif verify is not None:
        yield from _of_verify(verify)
        for line in beaten_lines(sources.baselines) if sources.baselines else ():
            yield Notice("caution", f"{line[:1].upper()}{line[1:]}.")
    if sources.bench is None and sources.report.engine:
        why = "No time was measured. On the machine that the engine is for:"
        yield Notice("next", why, f"patch-compile bench {sources.out}")


def _of_ratio(sources: Sources) -> Iterator[Notice]:
    """Yield a warning if the masks miss their ratio over the linears that it counts over by more than tiles explain."""
    asked, choice = sources.masks.ratio_asked, sources.report.learned.choice
    reached = choice.reached if choice and choice.unit == "ratio" else sources.report.ratio
    if abs(reached - asked) > 0.005:
        text = f"A ratio of {number(asked)} was asked for, and {number(reached)} was reached."
        yield Notice("caution", text)


def _of_speed(sources: Sources) -> Iterator[Notice]:
    whole, card = sources.whole, sources.report.plan.card
    if whole is not None and card is not None:
        slower = [IN_PHASE[phase] for phase in sources.phases if getattr(whole, phase).speedup < 1.0]
        if slower:
            where = f"{joined(slower)} on {card.name}"
            auto = sources.recipe.get("lowering") == "auto"
            how = "" if auto else " Linears that gain nothing by it stay dense with"
            text = f"The plan is predicted slower than the dense model {where}.{how}"
            yield Notice("caution", text, "" if auto else "--lowering auto")
        gained = whole.end_to_end
        if sources.report.ratio and gained.by_tiles < PAYS:
            text = (
                f"Pruning is not worth its loss: of {times(gained.speedup)}, tiles bring {times(gained.by_tiles)}. Without "
                f"it the same build is predicted at {times(gained.by_types)}:"
            )
            yield Notice("caution", text, "--ratio 0")
    for row, speedup in sources.measured:
        if speedup < 1.0:
            size = f"{IN_PHASE[row.phase]} with batch {row.batch}"
            yield Notice("caution", f"Measured slower than the dense engine {size}: {times(speedup)}.")


def _of_verify(verify: VerifyReport) -> Iterator[Notice]:
    for check in verify.checks:
        if not check.passed:
            yield Notice("fault", f"The check {check.ask} failed: {limit_words(check)}.")
    engine = verify.built if isinstance(verify.built, EngineCompared) else None
    for part, text in ((verify.compiled, _COMPILED_WRONGLY), (engine, _BUILT_WRONGLY)):
        if part and not part.passed:
            found = f"{found_error(part.error)}, allowed {number(part.tolerance.share)}"
            yield Notice("fault", f"{text}: {found}.")
    if verify.outcome is Outcome.NOT_CHECKED:
        yield Notice("caution", f"Not everything was checked: {unanswered_words(verify)}.")


# `verify` only repeats the build's own check of an ONNX file.
_NOT_MEASURED = {
    Kind.ENCODER: "where the error arises",
    Kind.DECODER: "where the error arises; what simpler ways of pruning lose (--baselines all); what the model loses on "
    "tasks (--tasks)",
}
_COMPILED_WRONGLY = "The hybrid ONNX differs from the pruned checkpoint by more than rounding explains"
_BUILT_WRONGLY = "The engine differs from the hybrid ONNX by more than rounding explains"
