"""Plans all linears of a model, by masks or by ratios. It settles linears of one input, which affect each other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import product

import numpy as np

from masklearn.masks.kinds.base import TileKind
from masklearn.masks.kinds.table import DENSE, TWO_FOUR
from masklearn.masks.tiles import grid_shape
from masklearn.quant.table import FLOAT16, WeightType
from patch_compile.artifacts.plan import LinearRow, Plan, PlanSummary, Reason, ReasonKind, Totals, Unpredicted
from patch_compile.planning.cost import CostModel
from patch_compile.planning.lowering import (
    AUTO,
    Asked,
    LinearPlan,
    asked_lowerings,
    lowerings_of,
    plan_linear,
)
from patch_compile.planning.outline import Outline
from patch_compile.planning.predict import predict_whole
from patch_compile.planning.products import InputGroup, cost_together, faster_apart, products_of
from patch_compile.planning.tile_map import TileKinds

Shape = tuple[int, int]
Kinds = tuple[TileKind, ...]
Plans = Mapping[str, LinearPlan]


def assumed_plans(
    linears: Mapping[str, Shape],
    tile: Shape,
    ratios: Mapping[str, float],
    lowering: str,
    costs: CostModel | None,
    kinds: Mapping[str, Kinds] | None = None,
    weights: Mapping[str, WeightType] | None = None,
) -> dict[str, LinearPlan]:
    """Returns the plan of every linear `[N, K]` at its ratio.

    lowering: a value of `--lowering`; kinds: kinds that each linear's tiles may have, None for 2:4; weights: types of the
    linears' weights, None for 16 bits. Raises PatchCompileError as `lowerings_of` does.
    """
    types = weights or {}
    asked = lowerings_of(lowering, list(linears), types)

    def plan(name: str, shape: Shape) -> LinearPlan:
        allowed = kinds[name] if kinds else (TWO_FOUR,)
        found = _plan_of(shape, tile, ratios[name], asked[name], costs, allowed, types.get(name, FLOAT16))
        return found.named(name)

    return {name: plan(name, shape) for name, shape in linears.items()}


def assumed_tiles(shape: Shape, tile: Shape, ratio: float, kinds: Kinds = (TWO_FOUR,)) -> TileKinds:
    """Returns the tiles of a linear `[N, K]` with this ratio, to one tile, or all tiles of the kind that zeroes most.

    Its tiles have the two kinds, dense included, whose shares of zeros are nearest below and above the ratio. No other
    choice is better if all tiles lose equally. Of kinds with equal zeros it takes the last in the table, which loses less.
    """
    grid = grid_shape(shape, tile)
    steps = sorted({kind.zeros: kind for kind in (DENSE, *sorted(kinds, key=lambda one: one.code))}.items())
    above = next((n for n, (zeros, _) in enumerate(steps) if zeros >= ratio), len(steps) - 1)
    (low, few), (high, many) = steps[max(0, above - 1)], steps[above]
    share = min(1.0, (ratio - low) / (high - low)) if high > low else 1.0
    codes = np.full(grid[0] * grid[1], few.code, np.uint8)
    codes[: round(share * codes.size)] = many.code
    return TileKinds(shape, tile, np.random.default_rng(0).permutation(codes).reshape(grid))


@lru_cache(maxsize=4096)
def _plan_of(
    shape: Shape,
    tile: Shape,
    ratio: float,
    asked: Asked,
    costs: CostModel | None,
    kinds: Kinds,
    weights: WeightType,
) -> LinearPlan:
    """Returns the plan of any linear of this shape. It is cached: there are few shapes and many linears."""
    return plan_linear("", assumed_tiles(shape, tile, ratio, kinds), asked, costs, weights)


def settle_together(
    plans: Plans, lowering: str, outline: Outline, costs: CostModel | None
) -> dict[str, LinearPlan]:
    """Returns the plans with the fastest choice of `plugin` and `dense` for linears of one input that `auto` left open.

    Dense linears of one input are one product, and packed linears are one node if the outline says so. Both save
    launches, so a linear that would be faster packed on its own may not be so here, and the other way round. A packed gate
    and its up get the panels that are faster for them, and are set apart where two nodes are faster than one. lowering: a
    value of `--lowering`.
    """
    settled = dict(plans)
    if costs is None:
        return settled
    asked = asked_lowerings(lowering, list(plans))
    every = {plan.name: plan for plan in (*outline.others, *plans.values())}
    for group in outline.groups:
        members = [every[name] for name in group.linears if name in every]
        free = {plan.name for plan in members if asked.get(plan.name) == AUTO and _is_open(plan)}
        node = group if group in outline.nodes else None
        if free or (node and node.gated):
            choices = [_paired(choice, node, costs) for choice in _choices(members, free, costs)]
            fastest = min(choices, key=lambda choice: _total(choice, group, node, costs))
            settled |= {plan.name: plan for plan in fastest if plan.name in plans}
    return settled


def _is_open(plan: LinearPlan) -> bool:
    """Returns True if only the predicted time decided the lowering. Quantised weights have only one lowering."""
    if plan.predicted is None or not plan.slabs.any_pruned or plan.weight_type.quantised:
        return False
    return plan.reason is None or plan.reason.kind.by_time


def _choices(
    members: Sequence[LinearPlan], free: set[str], costs: CostModel
) -> Iterator[tuple[LinearPlan, ...]]:
    """Yield the members with every choice of `dense` or `plugin` for the free members. free: their names."""
    names = [plan.name.rpartition(".")[2] for plan in members]

    def ways(plan: LinearPlan) -> Sequence[LinearPlan]:
        if plan.name not in free or plan.predicted is None:
            return (plan,)
        others = tuple(name for name in names if name != plan.name.rpartition(".")[2])
        alone = Reason(kind=ReasonKind.DENSE_PRODUCT, card=costs.card.name, product=others)
        dense = plan.changed(lowering="dense", reason=costs.why_dense(plan.predicted) or alone)
        return dense, plan.changed(lowering="plugin", reason=None)

    return product(*map(ways, members))


def _paired(
    members: tuple[LinearPlan, ...], node: InputGroup | None, costs: CostModel
) -> tuple[LinearPlan, ...]:
    """Returns the members of a group, a gate and its up with their fastest panels, set apart if two nodes are faster."""
    pair = [plan for plan in members if plan.lowering == "plugin"]
    if node is None or not node.gated or len(pair) < 2 or pair[0].weights != pair[1].weights:
        return members
    ways = [
        [plan.model_copy(update={"gated_codes": {rows: plan.gated_codes[rows]}}) for plan in pair]
        for rows in pair[0].heights_with(pair[1])
    ]
    fastest = min(ways, key=lambda way: costs.hybrid(cost_together(way, True, costs)))
    apart = faster_apart(fastest, costs)
    return tuple(plan.model_copy(update={"apart": apart}) for plan in fastest)


def _total(
    members: Sequence[LinearPlan], group: InputGroup, node: InputGroup | None, costs: CostModel
) -> float:
    """Returns the microseconds of the linears in the whole workload."""
    packed = [plan for plan in members if plan.lowering == "plugin"]
    others = [plan for plan in members if plan.lowering != "plugin"]
    return sum(
        costs.hybrid(cost_together(one, gated, costs))
        for one, gated in products_of(
            packed, [node] if node and not any(plan.apart for plan in packed) else []
        )
    ) + sum(costs.dense(cost_together(one, gated, costs)) for one, gated in products_of(others, [group]))


def plan_of(plans: Mapping[str, LinearPlan], outline: Outline, costs: CostModel | None) -> Plan:
    """Returns plan.json of a model: its linears and their summary."""
    return _plan(plans, summarise_plan(plans, outline, costs))


def unpredicted_plan(plans: Mapping[str, LinearPlan], why: Unpredicted) -> Plan:
    """Returns plan.json of a model without predicted times."""
    return _plan(plans, PlanSummary(totals=Totals.of([*plans.values()]), unpredicted=why))


def summarise_plan(plans: Mapping[str, LinearPlan], outline: Outline, costs: CostModel | None) -> PlanSummary:
    """Returns card, workload, bytes, and times of the whole model. costs: None if the card is unknown."""
    if costs is None:
        return PlanSummary(totals=Totals.of([*plans.values()]), unpredicted=Unpredicted.NO_CARD)
    return PlanSummary(
        card=costs.card.row(),
        workload=costs.workload,
        totals=Totals.of([*plans.values()]),
        whole=predict_whole(plans.values(), outline, costs),
    )


def _plan(plans: Mapping[str, LinearPlan], summary: PlanSummary) -> Plan:
    parts = {name: getattr(summary, name) for name in PlanSummary.model_fields}
    rows = ({name: getattr(plan, name) for name in LinearRow.model_fields} for plan in plans.values())
    return Plan(linears=tuple(LinearRow(**row) for row in rows), **parts)
