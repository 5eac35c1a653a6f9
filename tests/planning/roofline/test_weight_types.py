"""Quantised weights in the roofline and in plans: their bytes, limits and baselines. For w8a8 also the kernel that rounds X,
and dense W8A8 by cuBLASLt."""

import pytest

from masklearn.quant.table import FLOAT16, INT4, INT8, W8A8, WEIGHT_TYPES
from patch_compile.artifacts.plan import ReasonKind
from patch_compile.artifacts.prediction import WholeRow, Workload
from patch_compile.hardware.cards import rated_cards
from patch_compile.planning.cards import card_of
from patch_compile.planning.cost import CostModel
from patch_compile.planning.lowering import LinearPlan, plan_linear
from patch_compile.planning.outline import outline_of_llama
from patch_compile.planning.planner import plan_assumed
from patch_compile.planning.predict import predict_whole
from patch_compile.planning.products import products_of
from patch_compile.planning.roofline.assumptions import ASSUMED
from patch_compile.planning.roofline.launch_work import weight_bytes
from patch_compile.planning.roofline.library_product import dense_w8a8_time, first_bytes, quantise_time
from patch_compile.planning.roofline.linear_roofline import (
    DENSE_PATH,
    Linear,
    dense_path_time,
    dense_time,
    predict,
)
from patch_compile.planning.roofline.rest import Model
from tests.planning.assumed import assumed_mask

LOAD = Workload(batch=16, prompt=128, generated=128)
TILE = (128, 128)
SMALL = Model(2, 4096, 11008, 32, 32, 128, 32000, name="two blocks")
LINEARS, OUTLINE = outline_of_llama(SMALL)
A100, H100 = (card_of(name).rated for name in ("a100-80", "h100"))


def whole(types, ratio, target="a6000", load=LOAD) -> tuple[WholeRow, dict[str, LinearPlan]]:
    costs = CostModel(card_of(target), load)
    plans = plan_assumed(LINEARS, TILE, dict.fromkeys(LINEARS, ratio), "auto", costs, None, types, OUTLINE)
    return predict_whole(plans.values(), OUTLINE, costs), plans


def of_type(weights, ratio=0.4, **options):
    return whole(dict.fromkeys(LINEARS, weights), ratio, **options)


def test_plan_bytes_equal_tensor_bytes():
    for weights, taken in ((INT8, 64 * 64 * 0.625), (INT4, 64 * 64 * 0.40625)):
        plan = plan_linear("x", assumed_mask((1000, 512), TILE, 0.5), "plugin", weights=weights)
        panels, slabs = 16, 16 * 8
        assert (plan.panel_rows, plan.slabs.sparse) == (64, slabs)
        scales = 4 * panels * 64 if weights is INT8 else 0
        assert plan.bytes_after == slabs * taken + scales + 4 * (2 * (panels + 1) + slabs)
        assert LinearPlan.model_validate(plan.model_dump()).model_dump() == plan.model_dump()


@pytest.mark.parametrize("card", rated_cards(), ids=lambda card: card.name)
def test_no_type_beats_its_bytes(card):
    for weights in WEIGHT_TYPES.values():
        for share, tokens in ((0.0, 1), (0.5, 16), (1.0, 16), (0.5, 4096)):
            shape = Linear(11008, 4096, share, 64, (), weights)
            found = predict(card, shape, tokens)
            assert found.dense_microseconds == dense_time(card, Linear(11008, 4096, 0.0), tokens)[0]
            assert found.microseconds > weight_bytes(shape.problem(tokens)) / (card.bandwidth * 1e3)


@pytest.mark.parametrize("target", ["a6000", "a100-80", "h100"])
@pytest.mark.parametrize(
    "load",
    [LOAD, Workload(batch=1, prompt=1, generated=2), Workload(batch=300, prompt=16, generated=16)],
    ids=str,
)
@pytest.mark.parametrize("weights", [INT8, W8A8, INT4], ids=str)
def test_no_plan_passes_its_limits(target, load, weights):
    for ratio in (0.0, 0.4, 0.5):
        found, plans = of_type(weights, ratio, target=target, load=load)
        for phase in (found.prefill, found.decode, found.end_to_end):
            assert 0 < phase.speedup <= phase.limit
        if load.batch <= 16:
            dense, sparse = (0.53125, 0.40625) if weights is INT4 else (1.0, 0.625)
            p = sum(2 * one.zeroed for one in plans.values()) / sum(n * k for n, k in LINEARS.values())
            assert found.decode.limit == pytest.approx(2 / (dense - p * (dense - sparse)))


@pytest.mark.parametrize("weights", [INT8, INT4], ids=str)
def test_ratio_0_is_the_types_dense_model(weights):
    usual, _ = of_type(FLOAT16)
    found, plans = of_type(weights)
    at_zero, unpruned = of_type(weights, 0.0)
    assert usual.end_to_end.types_ms == usual.end_to_end.library_ms == usual.end_to_end.dense_ms
    assert found.decode.dense_ms == usual.decode.dense_ms and found.prefill.dense_ms == usual.prefill.dense_ms
    assert (
        at_zero.decode.planned_ms == at_zero.decode.types_ms == pytest.approx(found.decode.types_ms, rel=1e-3)
    )
    assert found.decode.planned_ms < found.decode.types_ms < found.decode.dense_ms
    assert found.decode.by_tiles == pytest.approx(found.decode.types_ms / found.decode.planned_ms)
    assert found.decode.speedup == pytest.approx(found.decode.by_types * found.decode.by_tiles)
    assert all(plan.lowering == "plugin" and plan.uses_zeros for plan in plans.values())
    for plan in unpruned.values():
        assert (plan.lowering, plan.reason.kind, plan.slabs.sparse) == (
            "plugin",
            ReasonKind.NO_SPARSE_TILE,
            0,
        )
        assert plan.predicted.decode.hybrid == plan.predicted.decode.alike


def test_types_split_products_but_not_dense():
    types = {name: INT4 if "v_proj" in name or "up_proj" in name else INT8 for name in LINEARS}
    types |= {name: FLOAT16 for name in LINEARS if "down_proj" in name}
    mixed, plans = whole(types, 0.4)
    assert mixed.decode.dense_ms == of_type(FLOAT16)[0].decode.dense_ms
    found = {
        tuple(plan.name.rpartition(".")[2] for plan in product): gated
        for product, gated in products_of(plans.values(), OUTLINE.nodes)
    }
    assert found == {
        ("q_proj", "k_proj"): False, ("v_proj",): False, ("gate_proj",): False, ("up_proj",): False,
        ("o_proj",): False, ("down_proj",): False,
    }  # fmt: skip
    assert mixed.decode.types_ms == pytest.approx(whole(types, 0.0)[0].decode.planned_ms, rel=1e-3)


@pytest.mark.parametrize("asked", ["dense", "auto"])
def test_quantised_dense_weights_are_dense_slabs(asked):
    """If `dense` is asked for, its zeros save nothing, and the plan says so; `auto` is as fast as the faster of the two."""
    costs = CostModel(card_of("a6000"), LOAD)
    mask = assumed_mask((4096, 4096), TILE, 0.4)
    plan = plan_linear("x", mask, asked, costs, INT8)
    assert plan.lowering == "plugin" and plan.weights == "int8"
    if asked == "dense":
        assert (plan.reason.kind, plan.uses_zeros) == (ReasonKind.ASKED, False)
        assert (plan.slabs.dense, plan.slabs.sparse) == (64 * 64, 0)
        assert plan.fused([mask], plan.node) == plan
        assert plan.predicted.decode.hybrid == plan.predicted.decode.alike
    else:
        assert plan.reason is None and plan.predicted.decode.hybrid < plan.predicted.decode.alike


def test_inputs_that_fit_are_rounded_in_l2():
    """20 MB of an A100's L2 hold 1024 tokens of 4096 inputs and their integers, and not 2048."""
    few, many = (quantise_time(A100, tokens, 4096) for tokens in (1024, 2048))
    assert many - few > 1.5 * (few - quantise_time(A100, 0, 4096))


@pytest.mark.parametrize("card", rated_cards(), ids=lambda card: card.name)
def test_no_product_beats_the_library(card):
    """A linear without 2:4 takes at least as long as rounding X and cuBLASLt's product, if that wrote 16 bits."""
    for shape in ((4096, 4096), (11008, 4096), (4096, 11008)):
        for tokens in (1, 16, 512, 4096):
            found = predict(card, Linear(*shape, 0.0, 128, (), W8A8), tokens)
            assert found.microseconds >= dense_w8a8_time(card, shape, tokens, fused=True)
            assert 0 < found.share < 1
            assert found.config.startswith("w8a8-") or (card.sm == 90 and found.config == DENSE_PATH)


def test_only_w8a8_has_a_library():
    costs = CostModel(card_of("a6000"), Workload(batch=16, prompt=512, generated=2))
    shape, slabs = (4096, 4096), {"dense": 2048, "2:4": 2048}
    for weights in (FLOAT16, INT8):
        found = costs.of(shape, 64, slabs, weights=weights).prefill
        assert found.library is None and found.baseline == found.unpruned
    found = costs.of(shape, 64, slabs, weights=W8A8).prefill
    assert found.baseline == found.library == dense_w8a8_time(costs.card.rated, shape, 8192, fused=True)
    assert found.hybrid < found.alike


def test_speed_counts_over_fused_dense_w8a8():
    found, plans = of_type(W8A8, 0.0)
    assert {plan.lowering for plan in plans.values()} == {"plugin"} and len(plans) == len(LINEARS)
    assert found.prefill.library_ms != pytest.approx(found.prefill.planned_ms, rel=1e-3)
    assert found.prefill.by_tiles == 1.0 and found.prefill.by_types == found.prefill.speedup
    pruned, _ = of_type(W8A8, 0.5)
    assert pruned.prefill.library_ms == pytest.approx(found.prefill.library_ms)
    assert pruned.prefill.low < pruned.prefill.speedup


def test_the_dense_path_adds_bytes_and_launches():
    """A 4096 × 4096 weight that is all 2:4 is .625 bytes a weight read and 1 written. With 16,384 tokens, 7 of its 32 panels
    and their sums fit into a piece: 5 pieces of three launches each."""
    linear = Linear(4096, 4096, 1.0, 128, (), W8A8)
    moved = 4096 * 4096 * 1.625 / (H100.bandwidth * 1e3 * ASSUMED.bandwidth)
    for tokens, launches in ((2048, 1), (16384, 1 + 3 * 4)):
        more = dense_path_time(H100, linear, tokens) - dense_w8a8_time(H100, (4096, 4096), tokens)
        assert more == pytest.approx(moved + launches * first_bytes(H100, ASSUMED), rel=0.01)


def test_more_pruning_is_never_slower():
    for tokens in (1, 16, 512, 4096):
        times = [
            predict(A100, Linear(11008, 4096, share / 4, 128, (), W8A8), tokens).microseconds
            for share in range(5)
        ]
        assert times == sorted(times, reverse=True)
