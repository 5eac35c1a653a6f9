"""Predicts milliseconds of a whole model, dense and planned, and the limits that no plan can pass.

`plan`, `build`, `--speedup`, `bench` and docs/explanation/performance.md all use these predictions. They count GEMMs as
TensorRT compiles them. In the dense model, linears of one input are one GEMM, because TensorRT merges q, k and v, and
gate and up, by itself (tests/engine/test_dense_products.py). In the planned model, linears that share a PatchLinear node are
one.

SiLU·mul is a kernel of the dense engine, and part of the node of gate and up in the hybrid one. Its time counts in both
(unless `Assumptions.gating` says otherwise), because 2:4 does not make it faster. A plan that counted the merged kernel as
a gain could pass its limits.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import replace

from masklearn.masks.kinds.base import BYTES_DENSE
from masklearn.quant.table import WeightType
from patch_compile.artifacts.plan import Bound, LinearTimes, Times
from patch_compile.artifacts.plan_of_model import RegimePoint
from patch_compile.artifacts.prediction import PhaseRow, WholeRow, Workload
from patch_compile.hardware.cards import RatedCard
from patch_compile.planning.cost import CostModel
from patch_compile.planning.lowering import LinearPlan
from patch_compile.planning.outline import Outline
from patch_compile.planning.products import InputGroup, cost_together, products_of
from patch_compile.planning.roofline.assumptions import speedup_errors
from patch_compile.planning.roofline.rest import rest_of

_TOKENS = tuple(1 << power for power in range(14))


def predict_whole(plans: Collection[LinearPlan], outline: Outline, costs: CostModel) -> WholeRow:
    """Predict the prompt and all decode steps of a workload. Every plan must have its times.

    It counts `split` linears as if TensorRT chose its 2:4 tactics, see `CostModel.of_split`.
    """
    load, card = costs.workload, costs.card
    prefill, step = rest_of(card.rated, outline.model, load.batch, load.prompt, load.generated, card.assume)
    every = [*plans, *outline.others]
    dense = _costs([plan.in_16_bits() for plan in every], outline.groups, costs)
    planned = _costs([plan for plan in every if plan.lowering == "dense"], outline.groups, costs)
    nodes = outline.nodes_of(every)
    packed = [plan for plan in every if plan.lowering == "plugin"]
    split = [plan for plan in every if plan.lowering == "split"]

    def of_type(weights: WeightType) -> list[LinearTimes]:
        own = ([plan for plan in some if plan.weight_type is weights] for some in (packed, split))
        return [*_costs(next(own), nodes, costs), *_costs(next(own), outline.groups, costs)]

    hybrid = {
        weights: of_type(weights) for weights in dict.fromkeys(p.weight_type for p in [*packed, *split])
    }
    quantised = [plan for plan in every if plan.weight_type.quantised]
    typed = _costs(quantised, nodes, costs)
    # The library multiplies linears of one input at once, whatever our nodes do.
    of_library = [plan for plan in quantised if plan.weight_type.input_bits == 8]
    of_kernels = [plan for plan in quantised if plan.weight_type.input_bits != 8]
    rivals = _costs(of_library, outline.groups, costs) + _costs(of_kernels, nodes, costs)
    others = _costs([plan for plan in every if not plan.weight_type.quantised], outline.groups, costs)
    limits = _limits(plans, card.rated)

    def phase(
        of: Callable[[LinearTimes], Times], rest: float, runs: int, tokens: int, least: float = 0.0
    ) -> PhaseRow:
        # With many sequences the tensor cores limit decode too, and 2:4 may save them more than it saves bytes.
        limit = max(least, *(limits[of(cost).bound] for cost in dense))
        as_in_dense = rest + sum(of(cost).dense for cost in planned)
        in_16_bits = rest + sum(of(cost).dense for cost in others)
        ours = {weights: sum(of(cost).hybrid for cost in some) for weights, some in hybrid.items()}
        slowest, fastest = (
            sum(time / speedup_errors(tokens, weights)[end] for weights, time in ours.items())
            for end in (0, 1)
        )
        in_fp8 = [time for cost in dense if (time := of(cost).fp8) is not None]
        scale = runs / 1e3
        return PhaseRow.of(
            dense=scale * (rest + sum(of(cost).dense for cost in dense)),
            types=scale * (in_16_bits + sum(of(cost).unpruned for cost in typed)),
            library=scale * (in_16_bits + sum(of(cost).baseline for cost in rivals)),
            fp8=scale * (rest + sum(in_fp8)) if len(in_fp8) == len(dense) else None,
            planned=scale * (as_in_dense + sum(ours.values())),
            ends=(scale * (as_in_dense + fastest), scale * (as_in_dense + slowest)),
            limit=limit,
        )

    return WholeRow.of(
        phase(lambda cost: cost.prefill, prefill, 1, load.prefill_tokens, limits["tensor"]),
        phase(lambda cost: cost.decode, step, load.steps, load.batch),
    )


def regime(plans: Collection[LinearPlan], outline: Outline, costs: CostModel) -> tuple[RegimePoint, ...]:
    """Returns the predicted speed-up of the whole model for a prompt of each length, with the lowerings of the plan.

    An encoder gets as many sequences of the workload's length as have so many tokens.
    """
    points, longest = [], costs.workload.prompt if outline.model.encoder else _TOKENS[-1]
    for count in _TOKENS:
        sequences = max(1, count // longest)
        load = Workload(batch=sequences, prompt=min(count, longest), generated=1)
        costs = replace(costs, workload=load)
        asked = [plan.model_copy(update={"predicted": None}) for plan in plans]
        row = predict_whole(asked, outline, costs).prefill
        points.append(
            RegimePoint(
                tokens=load.prefill_tokens, sequences=sequences, speedup=row.speedup, by_tiles=row.by_tiles
            )
        )
    return tuple(points)


def _limits(plans: Collection[LinearPlan], card: RatedCard) -> dict[Bound, float]:
    """Returns the limit of a plan's speed-up over dense 16-bit linears, by what bounds these.

    int8 GEMMs take as long as the data sheet says, and GEMMs of 16 bits as long as in the dense model.
    """
    weights = sum(plan.shape[0] * plan.shape[1] for plan in plans)
    share = {16: 1.0, 8: card.products(16).reached / card.int8}
    products = sum(share[plan.weight_type.input_bits] * plan.products for plan in plans)
    return {
        "bytes": BYTES_DENSE * weights / sum(plan.least_bytes for plan in plans),
        "tensor": weights / products,
    }


def _costs(
    plans: Collection[LinearPlan], groups: Collection[InputGroup], costs: CostModel
) -> list[LinearTimes]:
    return [cost_together(product, gated, costs) for product, gated in products_of(plans, groups)]
