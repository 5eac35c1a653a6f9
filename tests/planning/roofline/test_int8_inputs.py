"""Linears of w8a8: the kernel that rounds X, dense W8A8 by cuBLASLt, and the limits of int8 products."""

import pytest

from masklearn.quant.table import FLOAT16, INT8, W8A8
from patch_compile.artifacts.prediction import Workload
from patch_compile.hardware.cards import rated_cards
from patch_compile.planning.cards import card_of
from patch_compile.planning.cost import CostModel
from patch_compile.planning.roofline.assumptions import ASSUMED
from patch_compile.planning.roofline.library_product import dense_w8a8_time, first_bytes, quantise_time
from patch_compile.planning.roofline.linear_roofline import DENSE_PATH, Linear, dense_path_time, predict
from tests.planning.roofline.test_weight_types import LINEARS, of_type

A100, H100 = (card_of(name).rated for name in ("a100-80", "h100"))
CARDS = pytest.mark.parametrize("card", rated_cards(), ids=lambda card: card.name)


def test_inputs_that_fit_are_rounded_in_l2():
    """20 MB of an A100's L2 hold 1024 tokens of 4096 inputs and their integers, and not 2048."""
    few, many = (quantise_time(A100, tokens, 4096) for tokens in (1024, 2048))
    assert many - few > 1.5 * (few - quantise_time(A100, 0, 4096))


@CARDS
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
