"""`auto` for linears of one input, whose times depend on each other's lowering."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import product

from patch_compile.out.plan import Reason, ReasonKind
from patch_compile.plan.cost import CostModel
from patch_compile.plan.lowering import LinearPlan
from patch_compile.plan.lowering_patterns import AUTO, asked_lowerings
from patch_compile.plan.outline import Outline
from patch_compile.plan.products import Together, cost_together, products_of

__all__ = ["settle_together"]

Plans = Mapping[str, LinearPlan]


def settle_together(
    plans: Plans, lowering: str, outline: Outline, costs: CostModel | None
) -> dict[str, LinearPlan]:
    """The plans, with the fastest choice of `plugin` and `dense` for linears of one input where `auto` leaves one.

    What stays dense is one dense product, and what is packed one node where the outline says so; each saves launches, so
    linears that pay alone may not pay here, and others only here. lowering: as `--lowering` spells it.
    """
    settled = dict(plans)
    if costs is None:
        return settled
    asked = asked_lowerings(lowering, list(plans))
    every = {plan.name: plan for plan in (*outline.others, *plans.values())}
    for together in outline.together:
        members = [every[name] for name in together.linears if name in every]
        free = {plan.name for plan in members if asked.get(plan.name) == AUTO and _is_open(plan)}
        if free:
            node = together if together in outline.nodes else None
            fastest = min(_choices(members, free, costs), key=lambda one: _total(one, together, node, costs))
            settled |= {plan.name: plan for plan in fastest if plan.name in plans}
    return settled


def _is_open(plan: LinearPlan) -> bool:
    """True where nothing but its time has decided."""
    if plan.predicted is None:
        return False
    return plan.reason is None or plan.reason.kind.by_time


def _choices(
    members: Sequence[LinearPlan], free: set[str], costs: CostModel
) -> Iterator[tuple[LinearPlan, ...]]:
    names = [plan.name.rpartition(".")[2] for plan in members]

    def ways(plan: LinearPlan) -> Sequence[LinearPlan]:
        if plan.name not in free or plan.predicted is None:
            return (plan,)
        others = tuple(name for name in names if name != plan.name.rpartition(".")[2])
        alone = Reason(kind=ReasonKind.DENSE_PRODUCT, card=costs.card.name, product=others)
        dense = replace(plan, lowering="dense", reason=costs.why_dense(plan.predicted) or alone)
        return dense, replace(plan, lowering="plugin", reason=None)

    return product(*map(ways, members))


def _total(
    members: Sequence[LinearPlan], together: Together, node: Together | None, costs: CostModel
) -> float:
    """Microseconds of the linears in the whole workload."""
    packed = [plan for plan in members if plan.lowering == "plugin"]
    others = [plan for plan in members if plan.lowering != "plugin"]
    return sum(
        costs.hybrid(cost_together(one, gated, costs))
        for one, gated in products_of(packed, [node] if node else [])
    ) + sum(costs.dense(cost_together(one, gated, costs)) for one, gated in products_of(others, [together]))
