"""Three lights at the top of the page: is it right, how much was lost, how fast is it?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from patch_compile.artifacts.bench import Phase
from patch_compile.artifacts.verify_schema import EngineCompared
from patch_compile.report.bench import IN_PHASE
from patch_compile.report.page.number_format import change, joined, percent, perplexity, times
from patch_compile.report.page.page_data import Perplexities, Sources

__all__ = ["Light", "lights"]

_ASKED = ("Right?", "How much lost?", "How fast?")
# Loss of quality up to which the light is green, and up to which it is yellow, without a limit of the user's.
_PERPLEXITY = (0.05, 0.20)  # increase over the dense model
_OUTPUT = (0.02, 0.10)  # relative error of an output
_FASTER = 1.05  # speed-up from which the light is green

Colour = Literal["green", "yellow", "red", "grey"]


@dataclass(frozen=True)
class Light:
    """One light. answer: a word or a figure; why: the facts that decided the colour, in sentences."""

    asked: str
    colour: Colour
    answer: str
    why: str


def lights(sources: Sources) -> list[Light]:
    """Returns the lights, with the results of `verify` and `bench` if they ran."""
    return [
        Light(asked, *found)
        for asked, found in zip(_ASKED, (_right(sources), _lost(sources), _fast(sources)), strict=True)
    ]


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
    if (found := sources.perplexity) is not None:
        answer, increase = f"{change(found.pruned, found.dense)} perplexity", found.pruned / found.dense - 1
        colour, limit = _judged(sources, increase, _PERPLEXITY)
        return colour, answer, f"{_from_to(found)}{limit}"
    assert sources.outputs is not None  # a model has perplexities or outputs
    worst = sources.outputs[0].worst
    share = float("inf") if worst.relative is None else worst.relative
    colour, limit = _judged(sources, share, _OUTPUT)
    answer = "not finite" if worst.relative is None else f"{percent(worst.relative, 1)} output error"
    return colour, answer, f"The output that moves most is {worst.output}.{limit}"


def _from_to(found: Perplexities) -> str:
    return f"Perplexity on held-out text: {perplexity(found.dense)} dense, {perplexity(found.pruned)} pruned."


def _judged(sources: Sources, loss: float, limits: tuple[float, float]) -> tuple[Colour, str]:
    """Returns the colour of a loss, and what it is held to: the user's limits if there are any."""
    checks = sources.verify.checks if sources.verify else ()
    if failed := [check.ask for check in checks if not check.passed]:
        return "red", f" It is beyond the limit {joined(failed)}."
    rivals = sources.baselines.beaten_by if sources.baselines else ()
    simpler = f" A simpler way of pruning loses less: {joined(rivals)}." if rivals else ""
    if checks:
        asked = joined([check.ask for check in checks])
        return "yellow" if rivals else "green", f" It keeps the limit {asked}.{simpler}"
    green, yellow = limits
    held = f" Green up to {percent(green)}, red above {percent(yellow)}."
    if not loss <= yellow:
        return "red", held + simpler
    return "green" if loss <= green and not rivals else "yellow", held + simpler


def _fast(sources: Sources) -> tuple[Colour, str, str]:
    if measured := sources.measured_first:
        found = {phase: speedup for phase, (_, speedup) in measured.items()}
        assert sources.bench is not None
        low, high = min(found.values()), max(found.values())
        answer = times(low) if len(found) == 1 else f"{times(low)} to {times(high)}"
        in_order = [phase for phase in (Phase.PREFILL, Phase.DECODE, Phase.WHOLE) if phase in found]
        each = joined([f"{times(found[phase])} {IN_PHASE[phase]}" for phase in in_order])
        why = f"Measured on {sources.bench.device.name} against the dense engine: {each}."
        return _of_speed(low, high), answer, why
    whole, card = sources.whole, sources.plan.card
    if whole is None or card is None:
        return "grey", "Not known", "No speed is predicted for this model and target, and none was measured."
    each_phase = {phase: getattr(whole, phase).speedup for phase in sources.phases}
    slower = [
        f"{IN_PHASE[phase]} ({times(speedup)})" for phase, speedup in each_phase.items() if speedup < 1.0
    ]
    but = f" Slower {joined(slower)}." if slower else ""
    colour = _of_speed(min(each_phase.values()), whole.end_to_end.speedup)
    return (
        colour,
        f"{times(whole.end_to_end.speedup)} predicted",
        f"Predicted for {card.name}, not measured.{but}",
    )


def _of_speed(low: float, high: float) -> Colour:
    """Returns the colour of speed-ups over the dense model. high: the one that counts if phases differ."""
    if high < 1.0:
        return "red"
    return "green" if low >= 1.0 and high >= _FASTER else "yellow"
