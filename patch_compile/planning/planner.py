"""Plans all linears of a model, by masks or by ratios: the form that each has in the compiled graph, and why.

The decisions, in their order:

1. The tiles of a linear come from its mask (`plan_model`). Where nothing is learned yet, they are assumed by a ratio
   (`plan_assumed`, `assumed_tiles`).
2. The panel rows follow from the size and the kinds of the tiles (`packing.format.choose_panel_rows`). They divide the
   linear into slabs, and each slab has one kind: that of its tiles, or dense where it holds tiles of several kinds.
3. Each linear is planned on its own (`lowering.plan_linear`). Asked to be `dense`, it is dense. It is dense too if no tile
   or, as `plugin`, no slab is pruned. Asked to be `plugin` or `split`, it is that. `auto` is `plugin`, unless dense weights
   of the same type are predicted to be as fast. A linear of quantised weights is `plugin` in any case, with dense slabs
   where it would be dense.
4. Linears of one input are settled together (`settle_together`), where `auto` left them open: q, k and v, or a gate and
   its up, save launches together, as one dense GEMM or as one node. Every choice of `plugin` and `dense` for them is
   priced, and the fastest stays. A gate and its up get the panels that are faster for them, and a node each where two
   nodes are faster than one.
5. The passes of the graph decide last: which linears really share a node, which activation joins it, and the groups of a
   split (`LinearPlan.fused`). `write_hybrid` returns the plans with that.
6. `plan_json` adds up bytes, and predicts the times of the whole model.

`LinearPlan` is one linear's plan at each of these steps. For a speed, the tiles themselves are chosen by steps 2 to 4
(`price_by_time`); for a ratio, step 3 tells which linears can gain (`gains`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import product

import numpy as np

from masklearn.masks.kinds.base import TileKind
from masklearn.masks.kinds.table import DENSE, TWO_FOUR
from masklearn.masks.linear_mask import LinearMask
from masklearn.masks.tiles import grid_shape
from masklearn.quant.table import WeightType
from patch_compile.artifacts.plan import LinearRow, Plan, Reason, ReasonKind, Totals, Unpredicted
from patch_compile.planning.cost import CostModel
from patch_compile.planning.lowering import (
    AUTO,
    LinearPlan,
    asked_lowerings,
    plan_linears,
)
from patch_compile.planning.outline import Outline
from patch_compile.planning.predict import predict_whole
from patch_compile.planning.products import InputGroup, cost_together, faster_apart, products_of
from patch_compile.planning.tile_map import TileKinds

Shape = tuple[int, int]
Kinds = tuple[TileKind, ...]
Plans = Mapping[str, LinearPlan]


def plan_assumed(
    linears: Mapping[str, Shape],
    tile: Shape,
    ratios: Mapping[str, float],
    lowering: str,
    costs: CostModel | None,
    kinds: Mapping[str, Kinds] | None = None,
    weights: Mapping[str, WeightType] | None = None,
    outline: Outline | None = None,
) -> dict[str, LinearPlan]:
    """Returns the plan of every linear `[N, K]` at its ratio.

    lowering: a value of `--lowering`; kinds: kinds that each linear's tiles may have, None for 2:4; weights: types of the
    linears' weights, None for 16 bits; outline: settles linears of one input together, None plans each on its own. Raises
    PatchCompileError as `lowerings_of` does.
    """
    allowed = kinds or dict.fromkeys(linears, (TWO_FOUR,))
    tiles = {name: assumed_tiles(shape, tile, ratios[name], allowed[name]) for name, shape in linears.items()}
    return plan_model(tiles, lowering, outline, costs, weights or {})


def plan_model(
    masks: Mapping[str, LinearMask] | Mapping[str, TileKinds],
    lowering: str,
    outline: Outline | None,
    costs: CostModel | None,
    weights: Mapping[str, WeightType],
) -> dict[str, LinearPlan]:
    """Returns the plan of every covered linear of a model, with linears of one input settled together.

    outline: costs outside the linears, None if no speed is predicted; for the others see `plan_linears`.
    """
    plans = plan_linears(masks, lowering, costs, weights)
    return settle_together(plans, lowering, outline, costs) if outline else plans


@lru_cache(maxsize=4096)
def assumed_tiles(shape: Shape, tile: Shape, ratio: float, kinds: Kinds = (TWO_FOUR,)) -> TileKinds:
    """Returns the tiles of a linear `[N, K]` with this ratio, to one tile, or all tiles of the kind that zeroes most.

    Its tiles have the two kinds, dense included, whose shares of zeros are nearest below and above the ratio. No other
    choice is better if all tiles lose equally. Of kinds with equal zeros it takes the last in the table, which loses less.
    """
    grid = grid_shape(shape, tile)
    steps = sorted({kind.zeros: kind for kind in (DENSE, *sorted(kinds, key=lambda kind: kind.code))}.items())
    above = next((n for n, (zeros, _) in enumerate(steps) if zeros >= ratio), len(steps) - 1)
    (low, few), (high, many) = steps[max(0, above - 1)], steps[above]
    share = min(1.0, (ratio - low) / (high - low)) if high > low else 1.0
    codes = np.full(grid[0] * grid[1], few.code, np.uint8)
    codes[: round(share * codes.size)] = many.code
    return TileKinds(shape, tile, np.random.default_rng(0).permutation(codes).reshape(grid))


def settle_together(
    plans: Plans, lowering: str, outline: Outline, costs: CostModel | None
) -> dict[str, LinearPlan]:
    """Returns the plans with the fastest choice of `plugin` and `dense` for linears of one input that `auto` left open.

    Dense linears of one input are one GEMM, and packed linears are one node if the outline says so. Both save
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
    fastest = min(ways, key=lambda way: costs.total(cost_together(way, True, costs), "hybrid"))
    apart = faster_apart(fastest, costs)
    return tuple(plan.model_copy(update={"apart": apart}) for plan in fastest)


def _total(
    members: Sequence[LinearPlan], group: InputGroup, node: InputGroup | None, costs: CostModel
) -> float:
    """Returns the microseconds of the linears in the whole workload."""
    packed = [plan for plan in members if plan.lowering == "plugin"]
    nodes = [node] if node and not any(plan.apart for plan in packed) else []
    others = [plan for plan in members if plan.lowering != "plugin"]
    hybrid, dense = products_of(packed, nodes), products_of(others, [group])
    return sum(costs.total(cost_together(*linears, costs), "hybrid") for linears in hybrid) + sum(
        costs.total(cost_together(*linears, costs), "dense") for linears in dense
    )


def plan_json(plans: Mapping[str, LinearPlan], outline: Outline | None, costs: CostModel | None) -> Plan:
    """Returns plan.json of a model: its linears, their bytes, and the predicted times of the whole model.

    outline: None for a model whose speed is not predicted; costs: None if the card is unknown.
    """
    rows = ({name: getattr(plan, name) for name in LinearRow.model_fields} for plan in plans.values())
    linears, totals = tuple(LinearRow(**row) for row in rows), Totals.of([*plans.values()])
    if outline is None or costs is None:
        why = Unpredicted.NO_CHECKPOINT if outline is None else Unpredicted.NO_CARD
        return Plan(linears=linears, totals=totals, unpredicted=why)
    return Plan(
        linears=linears,
        card=costs.card.row(),
        workload=costs.workload,
        totals=totals,
        whole=predict_whole(plans.values(), outline, costs),
    )
