"""What a plan promises for the whole model, as `plan`, plan.json and the report have it."""

from __future__ import annotations

from collections.abc import Mapping

from patch_compile.out.plan import Plan, PlanSummary, Totals, Unpredicted
from patch_compile.plan.cost import CostModel
from patch_compile.plan.lowering import LinearPlan
from patch_compile.plan.outline import Outline
from patch_compile.plan.predict import predict_whole

__all__ = ["plan_of", "summarise_plan", "unpredicted_plan"]


def plan_of(plans: Mapping[str, LinearPlan], outline: Outline, costs: CostModel | None) -> Plan:
    """plan.json of a model: its linears and their summary."""
    return _plan(plans, summarise_plan(plans, outline, costs))


def unpredicted_plan(plans: Mapping[str, LinearPlan], why: Unpredicted) -> Plan:
    """plan.json of a model that no times are predicted for."""
    return _plan(plans, PlanSummary(totals=_totals(plans), unpredicted=why))


def summarise_plan(plans: Mapping[str, LinearPlan], outline: Outline, costs: CostModel | None) -> PlanSummary:
    """Card, workload, bytes, and times of the whole model; costs: None where nothing is known of the card."""
    if costs is None:
        return PlanSummary(totals=_totals(plans), unpredicted=Unpredicted.NO_CARD)
    return PlanSummary(
        card=costs.card.row(),
        workload=costs.workload.row(),
        totals=_totals(plans),
        whole=predict_whole(plans.values(), outline, costs).row(),
    )


def _plan(plans: Mapping[str, LinearPlan], summary: PlanSummary) -> Plan:
    parts = {name: getattr(summary, name) for name in PlanSummary.model_fields}
    return Plan(linears=tuple(plan.row() for plan in plans.values()), **parts)


def _totals(plans: Mapping[str, LinearPlan]) -> Totals:
    return Totals(
        bytes_before=sum(plan.bytes_before for plan in plans.values()),
        bytes_after=sum(plan.bytes_after for plan in plans.values()),
    )
