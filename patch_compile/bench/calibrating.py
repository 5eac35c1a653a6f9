"""Fits the assumptions of the planner's card to a benchmark on a GPU (`bench --calibrate`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from patch_compile.bench.place import CpuPlace, GpuPlace
from patch_compile.bench.points import Phase, Point
from patch_compile.bench.predicted import PlannedModel
from patch_compile.errors import PatchCompileError
from patch_compile.plan.cards import PlanCard
from patch_compile.plan.measured import MeasuredCard
from patch_compile.plan.measured_fit import fit_assumptions
from patch_compile.plan.roofline.assumptions import Assumptions
from patch_compile.sources.base import Source
from patch_compile.sources.kinds import Ability

__all__ = ["calibrate", "check_calibration"]

Row = Mapping[str, Any]


def check_calibration(place: CpuPlace | GpuPlace, source: Source) -> None:
    """Raises PatchCompileError, before anything is timed, if times on `place` can't calibrate a card."""
    fix = "leave --calibrate out"
    if isinstance(place, CpuPlace):
        raise PatchCompileError(
            "--calibrate does not go with ONNX Runtime",
            "the planner predicts engines on a GPU, of which ONNX Runtime's times on a CPU say nothing",
            f"run it where a GPU runs the engine, or {fix}",
        )
    if why := source.lacks(Ability.PLAN):
        raise PatchCompileError(f"--calibrate does not go with {source.words}", why, fix)
    if place.card is None:
        raise PatchCompileError(
            f"there is no card to calibrate for {place.device['name']}",
            "the table of cards has no row for it or its architecture",
            fix,
        )


def calibrate(result: Row, planned: PlannedModel, card: PlanCard, model: str) -> MeasuredCard:
    """Fit the card to the dense and hybrid times of bench.json. Raises PatchCompileError if the fit fails.

    card: the card of the GPU, from the table or from an earlier calibration. The fit starts afresh and does not build
    on an earlier one.
    """
    rows, evened = result["rows"], planned.evened()
    points = [Point(Phase(row["phase"]), row["batch"], row["tokens"]) for row in rows]
    names = [name for name in ("dense", "hybrid") if rows and rows[0][name]]
    times = [row[name]["median_ms"] for row in rows for name in names]

    def predict(assume: Assumptions) -> Sequence[float]:
        as_assumed = replace(card, assume=assume, measured=None)
        phases = [evened.at(point, as_assumed) for point in points]
        return [phase.dense if name == "dense" else phase.planned for phase in phases for name in names]

    clocks = result["clocks"]
    during = clocks["during"] if clocks else {}
    sm = during["sm_mhz"]["median"] if during.get("sm_mhz") else None
    fit = fit_assumptions(times, predict, sm and sm / (1e3 * card.rated.clock))
    return MeasuredCard(
        gpu=result["device"]["name"],
        card=card.name,
        own=not card.stands_for,
        clocks={name: during[name]["median"] for name in ("sm_mhz", "memory_mhz")} if sm else None,
        driver=result["device"]["driver"],
        backend=result["runner"],
        version=result["device"]["backend_version"],
        date=result["date"],
        model=model,
        assumptions=fit.fitted,
        left=fit.left,
        times=len(times),
        error={"before": fit.before, "after": fit.after},
    )
