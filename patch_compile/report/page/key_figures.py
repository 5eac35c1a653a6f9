"""Key figures to compare builds by, with a few words below each."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from masklearn.masks.kinds.base import BYTES_DENSE
from patch_compile.artifacts.bench import Phase
from patch_compile.planning.roofline.linear_roofline import speedup_limit
from patch_compile.report.page.number_format import bytes_of, change, percent, perplexity, times
from patch_compile.report.page.page_data import Sources
from patch_compile.report.weight_types import compiled_types, types_words

__all__ = ["KeyFigure", "key_figures"]

_PHASES = {"prefill": "Prefill", "decode": "Decode", "end_to_end": "End to end"}
# The limit of the dense product in each phase.
_BOUND = {"prefill": "tensor", "decode": "bytes"}


@dataclass(frozen=True)
class KeyFigure:
    """A figure. about: lines below the value."""

    label: str
    value: str
    about: list[str]


def key_figures(sources: Sources) -> list[KeyFigure]:
    """Returns the figures of ratio, quality, size, and speed with its limits."""
    return [*_ratio(sources), *_quality(sources), *_size(sources), *_speed(sources)]


def _ratio(sources: Sources) -> Iterator[KeyFigure]:
    ratio, speed = sources.report.ratio, sources.report.learned.speed
    asked = f"found for {speed.goal}" if speed else f"{percent(ratio.asked, 1)} asked"
    about = [asked, _in_tiles(sources), f"method {sources.report.method}"]
    yield KeyFigure("Weights zeroed", percent(ratio.reached, 1), about)


def _quality(sources: Sources) -> Iterator[KeyFigure]:
    found = sources.perplexity
    if found is not None:
        about = [
            f"dense {perplexity(found.dense)}, {change(found.pruned, found.dense)}",
            found.how,
        ]
        yield KeyFigure("Perplexity", perplexity(found.pruned), about)
        return
    assert sources.outputs is not None  # a model has perplexities or outputs
    worst = sources.outputs[0].worst
    if worst.floating:
        about = [f"of {worst.output}, relative, against the dense model"]
        yield KeyFigure("Output error", percent(worst.relative, 1), about)


def _size(sources: Sources) -> Iterator[KeyFigure]:
    totals, engine = sources.plan.totals, sources.report.engine
    before, after = totals.bytes_before, totals.bytes_after
    file = f"engine {bytes_of(engine.bytes)}" if engine else f"ONNX {bytes_of(sources.report.onnx.bytes)}"
    types = types_words(compiled_types(sources.linears))
    about = [f"dense {bytes_of(before)}, {change(after, before)}", f"whole {file}", *filter(None, [types])]
    yield KeyFigure("Covered weights", bytes_of(after), about)


def _speed(sources: Sources) -> Iterator[KeyFigure]:
    whole, card = sources.whole, sources.plan.card
    measured = sources.measured_first
    phases: tuple[str, ...] = (Phase.WHOLE,) if Phase.WHOLE in measured else sources.phases
    for phase in phases:
        label = f"{_PHASES[phase]} speed" if len(phases) > 1 else "Speed"
        limit = getattr(whole, phase).limit if whole else _limit(sources, phase)
        beside = [f"limit {times(limit)}"] if limit else []
        if phase in measured:
            row, speedup = measured[phase]
            predicted = [f"predicted {times(row.predicted.speedup)}"] if row.predicted else []
            beside = [f"limit {times(row.limit)}"] if row.limit else beside
            about = [f"measured, batch {row.batch}", *predicted, *beside]
            yield KeyFigure(label, times(speedup), about)
        elif whole and card:
            about = [f"predicted, {card.name}", *beside]
            yield KeyFigure(label, times(getattr(whole, phase).speedup), about)
        elif beside:
            about = [
                "neither predicted nor measured",
                f"with {_in_tiles(sources)}",
            ]
            yield KeyFigure(label, f"≤ {times(limit)}", about)


def _limit(sources: Sources, phase: str) -> float:
    """Returns the limit of a phase without predictions, 0 for a phase without a limit of its own."""
    if phase not in _BOUND:
        return 0.0
    if _BOUND[phase] == "bytes":
        return BYTES_DENSE / sources.masks.packed_bytes_per_weight
    return speedup_limit(sources.share, _BOUND[phase])


def _in_tiles(sources: Sources) -> str:
    return f"{percent(sources.pruned_share)} of weights in {sources.pruned_kinds} tiles"
