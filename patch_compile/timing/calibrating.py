"""Fits the assumptions of the planner's card to a benchmark on a GPU (`bench --calibrate`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from patch_compile.artifacts.bench import BenchReport
from patch_compile.errors import PatchCompileError
from patch_compile.planning.cards import PlanCard
from patch_compile.planning.measured import MeasuredCard
from patch_compile.planning.measured_fit import fit_assumptions
from patch_compile.planning.roofline.assumptions import Assumptions
from patch_compile.sources.base import Source
from patch_compile.sources.kinds import Capability
from patch_compile.timing.device import CpuDevice, GpuPlace
from patch_compile.timing.points import Point
from patch_compile.timing.predicted import PlannedModel

__all__ = ["calibrate", "check_calibration"]


def check_calibration(place: CpuDevice | GpuPlace, source: Source) -> None:
    """Raises PatchCompileError, before anything is timed, if times on `place` can't calibrate a card."""
    fix = "Leave `--calibrate` out."
    if isinstance(place, CpuDevice):
        raise PatchCompileError(
            "--calibrate does not go with ONNX Runtime",
            "The planner predicts engines on a GPU, of which ONNX Runtime's times on a CPU say nothing.",
            f"Run it where a GPU runs the engine. {fix[:-1]} otherwise.",
        )
    if why := source.why_not(Capability.PLAN):
        raise PatchCompileError(f"--calibrate does not go with {source.words}", why, fix)
    if place.card is None:
        raise PatchCompileError(
            f"There is no card to calibrate for {place.device.name}",
            "The table of cards has no row for it or its architecture.",
            fix,
        )


def calibrate(report: BenchReport, planned: PlannedModel, card: PlanCard, model: str) -> MeasuredCard:
    """Fit the card to the dense and hybrid times of bench.json. Raises PatchCompileError if the fit fails.

    card: the card of the GPU, from the table or from an earlier calibration. The fit starts afresh and does not build
    on an earlier one.
    """
    rows, evened = report.rows, planned.evened()
    points = [Point(row.phase, row.batch, row.tokens) for row in rows]
    times = [timed.median_ms for row in rows for timed in (row.dense, row.hybrid) if timed]

    def predict(assume: Assumptions) -> Sequence[float]:
        as_assumed = replace(card, assume=assume, measured=None)
        phases = zip(rows, (evened.at(point, as_assumed) for point in points), strict=True)
        each = (((row.dense, phase.dense), (row.hybrid, phase.planned)) for row, phase in phases)
        return [predicted for pairs in each for timed, predicted in pairs if timed]

    during = report.clocks.during if report.clocks else None
    clocks = {"sm_mhz": during.sm_mhz.median, "memory_mhz": during.memory_mhz.median} if during else None
    sustained = during.sm_mhz.median / (1e3 * card.rated.clock) if during else None
    fit = fit_assumptions(times, predict, sustained)
    return MeasuredCard(
        gpu=report.device.name,
        card=card.name,
        own=not card.stands_for,
        clocks=clocks,
        driver=report.device.driver,
        backend=report.runner,
        version=report.device.backend_version,
        date=report.date,
        model=model,
        assumptions=fit.fitted,
        left=fit.left,
        times=len(times),
        error={"before": fit.before, "after": fit.after},
    )
