"""Predictions of the planner for a build at the sizes that are timed, and the card that fits its times."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any

from masklearn.masks.kinds.table import KINDS, TWO_FOUR
from patch_compile.artifacts.bench import BenchReport, Phase
from patch_compile.artifacts.folder import OutFolder
from patch_compile.artifacts.plan import Plan, Slabs
from patch_compile.artifacts.prediction import PhaseRow, Workload
from patch_compile.errors import PatchCompileError
from patch_compile.planning.cards import PlanCard, find_card
from patch_compile.planning.cost import CostModel
from patch_compile.planning.lowering import LinearPlan
from patch_compile.planning.measured import MeasuredCard
from patch_compile.planning.measured_fit import fit_assumptions
from patch_compile.planning.outline import Outline
from patch_compile.planning.predict import predict_whole
from patch_compile.planning.roofline.assumptions import Assumptions
from patch_compile.sources.base import Source, TextSource
from patch_compile.sources.open import needed
from patch_compile.timing.device import Place
from patch_compile.timing.points import Point


@dataclass(frozen=True)
class PlannedModel:
    """A build, described by its plan."""

    plans: tuple[LinearPlan, ...]
    outline: Outline

    def at(self, point: Point, card: PlanCard) -> PhaseRow:
        """Returns the predicted milliseconds of one dense and one hybrid run at a point."""
        steps = 1 if point.phase is Phase.DECODE else 0
        costs = CostModel(card, Workload(batch=point.batch, prompt=point.tokens or 1, generated=1 + steps))
        plans = [_costed(plan, costs) for plan in self.plans]
        outline = replace(self.outline, others=tuple(_costed(plan, costs) for plan in self.outline.others))
        whole = predict_whole(plans, outline, costs)
        return whole.decode if steps else whole.prefill

    def evened(self) -> PlannedModel:
        """Returns the build with the mean share of each kind of slabs in all linears of equal shape and weight type.

        There are few shapes. A fit, which predicts thousands of times, would otherwise take seconds.
        """
        alike: dict[tuple[Any, ...], list[LinearPlan]] = {}
        for plan in self.plans:
            alike.setdefault(_key(plan), []).append(plan)
        means = {key: _mean_slabs(same) for key, same in alike.items()}

        def even(plan: LinearPlan) -> LinearPlan:
            pruned = dict(means[_key(plan)])
            dense = sum(plan.slabs.by_kind.values()) - sum(pruned.values())
            sparse = pruned.pop(TWO_FOUR.name)
            slabs = Slabs(dense=dense, sparse=sparse, others=pruned)
            return plan.model_copy(update={"slabs": slabs})

        return PlannedModel(tuple(map(even, self.plans)), self.outline)


def _key(plan: LinearPlan) -> tuple[Any, ...]:
    return plan.shape, plan.panel_rows, plan.lowering, plan.weights


def _mean_slabs(plans: Sequence[LinearPlan]) -> dict[str, int]:
    """Returns the mean numbers of slabs of each kind that prunes, 2:4 first."""
    kinds = [TWO_FOUR.name, *(kind.name for kind in KINDS if any(kind.name in p.slabs.others for p in plans))]
    return {kind: round(fmean(plan.slabs.by_kind.get(kind, 0) for plan in plans)) for kind in kinds}


def planned_model(out: OutFolder, source: Source) -> PlannedModel | None:
    """Returns the linears of plan.json as the graph has them, and the model's other work. It reads no weights.

    Returns None if the source has no predictions of speed.
    """
    if source.outline is None:
        return None
    plan = Plan.of(out.path)
    plans = tuple(LinearPlan(**dict(row)) for row in plan.linears) if plan else ()
    return PlannedModel(plans, source.outline.compiled(plans))


def costs_of_build(out: OutFolder) -> CostModel | None:
    """Returns the cost model that a build was planned by, or None if its card is unknown."""
    plan = Plan.of(out.path)
    if plan is None or plan.card is None or plan.workload is None:
        return None
    card = find_card(plan.card.name)
    return CostModel(card, plan.workload) if card else None


def _costed(plan: LinearPlan, costs: CostModel) -> LinearPlan:
    cost = costs.of(plan.shape, plan.rows_of_panels, plan.slabs.by_kind, weights=plan.weight_type)
    return plan.model_copy(update={"predicted": cost})


def check_calibration(place: Place, source: Source) -> None:
    """Raises PatchCompileError, before anything is timed, if times on `place` can't calibrate a card."""
    needed(source, TextSource, "--calibrate")  # type: ignore[type-abstract]
    if place.card is None:
        raise PatchCompileError(
            f"{place.device.name} has no card to calibrate",
            "The table of cards has no row for it or its architecture.",
            "Leave `--calibrate` out.",
        )


def calibrate(report: BenchReport, planned: PlannedModel, card: PlanCard, model: str) -> MeasuredCard:
    """Fit the card to the dense and hybrid times of bench.json. Raises PatchCompileError if the fit fails.

    card: the card of the GPU, from the table or from an earlier calibration. The fit does not start from an earlier fit.
    """
    rows, evened = report.rows, planned.evened()
    points = [Point(row.phase, row.batch, row.tokens) for row in rows]
    times = [timed.median_ms for row in rows for timed in (row.dense, row.hybrid) if timed]

    def predict(assume: Assumptions) -> Sequence[float]:
        as_assumed = replace(card, assume=assume, measured=None)
        phases = zip(rows, (evened.at(point, as_assumed) for point in points), strict=True)
        each = (((row.dense, phase.dense_ms), (row.hybrid, phase.planned_ms)) for row, phase in phases)
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
