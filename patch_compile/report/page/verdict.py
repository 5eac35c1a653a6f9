"""The top of the page: the build, its quality, its speed, and warnings."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from patch_compile.artifacts.bench import BenchReport, BenchRow, Library
from patch_compile.artifacts.report import Kind, OutputsReport
from patch_compile.artifacts.verify import Outcome, VerifyReport
from patch_compile.artifacts.verify_schema import EngineCompared
from patch_compile.report.baselines import beaten_lines
from patch_compile.report.bench import IN_PHASE, LIBRARY_NAMES
from patch_compile.report.output_error import output_warnings
from patch_compile.report.page.number_format import (
    change,
    found_error,
    joined,
    number,
    percent,
    perplexity,
    times,
)
from patch_compile.report.page.page_data import Sources
from patch_compile.report.verify import limit_words, unanswered_words

__all__ = ["Notice", "Verdict", "verdict"]


@dataclass(frozen=True)
class Notice:
    """A warning, or a next step.

    level: `fault` if a check failed, `caution` if the user may want to decide otherwise, `next` for a step that finds out
    more, by `command`.
    """

    level: Literal["fault", "caution", "next"]
    text: str
    command: str = ""


@dataclass(frozen=True)
class Verdict:
    """The verdict. lead: the build and its quality; speed: sentences on its speed; warnings: the most important first."""

    lead: list[str]
    speed: list[str]
    warnings: list[Notice]


def verdict(sources: Sources) -> Verdict:
    """Returns the verdict on a build, with the results of `verify` and `bench`."""
    order = {"fault": 0, "caution": 1, "next": 2}
    warnings = sorted(_warnings(sources), key=lambda one: order[one.level])
    return Verdict([_built(sources), _cost(sources)], list(_speed(sources)), warnings)


def _built(sources: Sources) -> str:
    report, share = sources.report, sources.pruned_share
    ratio, engine = percent(report.ratio.reached, 1), report.engine
    many = len(report.linears)
    linears = f"its {many} covered linears" if many > 1 else "its covered linear"
    form = "an ONNX file; no engine was built"
    if engine:
        form = f"a {LIBRARY_NAMES[Library(engine.backend)]} engine for {joined(engine.targets)}"
    return (
        f"{ratio} of the weights in {linears} are zeroed, for {percent(share)} of them lie in {sources.pruned_kinds} "
        f"tiles; the model is compiled to {form}."
    )


def _cost(sources: Sources) -> str:
    found = sources.perplexity
    if found is None:
        return _outputs_cost(sources)
    dense, pruned = found.dense, found.pruned
    up = "rises" if pruned >= dense else "falls"
    by = change(pruned, dense)
    return f"Perplexity {up} from {perplexity(dense)} to {perplexity(pruned)} ({by})."


def _outputs_cost(sources: Sources) -> str:
    assert sources.outputs is not None  # a model has perplexities or outputs
    difference, _ = sources.outputs
    worst, floating = difference.worst, [one for one in difference.outputs if one.floating]
    by = "a value that is not finite" if worst.relative is None else percent(worst.relative, 1)
    if not floating:
        return f"{by} of an output's elements differ from the original's."
    which = "Its output" if len(floating) == 1 else "The output that moves most,"
    return f"{which} {worst.output!r} differs from the dense model's by {by} of its norm."


def _speed(sources: Sources) -> Iterator[str]:
    if sources.measured and sources.bench:
        yield _measured(sources.measured_first, sources.bench)
    whole, plan = sources.whole, sources.plan
    if whole is None:
        if not sources.measured:
            yield "No speed is predicted, and none was measured."
        return
    one = whole.end_to_end
    but = "" if sources.measured else ", not measured,"
    yield (
        f"It is predicted{but} to run {_compared(one.speedup)} end to end on {plan.card} "
        f"({plan.workload}); at this ratio no plan there can pass {times(one.limit)}."
    )


def _compared(speedup: float) -> str:
    if speedup >= 1.0:
        return f"{times(speedup)} as fast as the dense model"
    return f"slower than the dense model, at {times(speedup)} its speed,"


def _measured(phases: dict[str, tuple[BenchRow, float]], bench: BenchReport) -> str:
    parts = [
        f"{times(speedup)} {IN_PHASE[phase]}{_limit(row)} with batch {row.batch}"
        for phase, (row, speedup) in sorted(phases.items(), reverse=True)
    ]
    runner = LIBRARY_NAMES[bench.runner]
    return f"Measured on {bench.device.name} with {runner}: {joined(parts)} against the dense engine."


def _limit(row: BenchRow) -> str:
    return f" (limit {times(row.limit)})" if row.limit else ""


def _warnings(sources: Sources) -> Iterator[Notice]:
    yield from _of_ratio(sources)
    if isinstance(sources.report, OutputsReport):
        yield from (Notice("caution", line) for line in output_warnings(sources.report))
    yield from _of_speed(sources)
    verify = sources.verify
    for reason in sources.unread:
        yield Notice("caution", f"A verification is not shown here: {reason}")
    if verify is None:
        more = _OF_DECODERS if sources.kind is Kind.DECODER else ""
        yield Notice(
            "next",
            f"Beyond what the build itself checks, nothing is verified yet{more}. To find out:",
            f"patch-compile verify {sources.out}",
        )
    else:
        yield from _of_verify(verify)
        for line in beaten_lines(sources.baselines) if sources.baselines else ():
            yield Notice("caution", f"{line[:1].upper()}{line[1:]}.")
    if sources.bench is None and sources.report.engine:
        yield Notice(
            "next",
            "No time was measured. On the machine that the engine is for:",
            f"patch-compile bench {sources.out}",
        )


def _of_ratio(sources: Sources) -> Iterator[Notice]:
    ratio = sources.report.ratio
    if abs(ratio.reached - ratio.asked) > 0.005:
        yield Notice(
            "caution",
            f"A ratio of {number(ratio.asked)} was asked for, and {number(ratio.reached)} was reached.",
        )


def _of_speed(sources: Sources) -> Iterator[Notice]:
    whole, card = sources.whole, sources.plan.card
    if whole is not None and card is not None:
        slower = [phase for phase in sources.phases if getattr(whole, phase).speedup < 1.0]
        if slower:
            where = f"{joined([IN_PHASE[one] for one in slower])} on {card.name}"
            auto = sources.recipe.get("lowering") == "auto"
            how = "" if auto else " Linears that gain nothing by it stay dense with"
            yield Notice(
                "caution",
                f"The plan is predicted slower than the dense model {where}.{how}",
                "" if auto else "--lowering auto",
            )
    for row, speedup in sources.measured:
        if speedup < 1.0:
            yield Notice(
                "caution",
                f"Measured slower than the dense engine {IN_PHASE[row.phase]} with batch {row.batch}: "
                f"{times(speedup)}.",
            )


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


_OF_DECODERS = ": not where the error arises, not what simpler ways of pruning cost, not what tasks lose"
_COMPILED_WRONGLY = "The hybrid ONNX differs from the pruned checkpoint by more than rounding explains"
_BUILT_WRONGLY = "The engine differs from the hybrid ONNX by more than rounding explains"
