"""The lowering that `auto` chooses for a linear, and its reason."""

import pytest

from masklearn.quant.table import FLOAT16, W8A8
from patch_compile.artifacts.plan import Reason, ReasonKind, SplitRow, Way
from patch_compile.artifacts.prediction import Workload
from patch_compile.planning.cards import card_of
from patch_compile.planning.cost import CostModel
from patch_compile.planning.lowering import plan_linear, plan_linears
from patch_compile.planning.roofline.library_product import quantise_time
from patch_compile.planning.roofline.linear_roofline import Linear, predict
from tests.planning.assumed import assumed_mask

LOAD = Workload(batch=16, prompt=128, generated=128)
TILE = (128, 128)


def planned(shape, ratio, target="a6000", asked="auto", load=LOAD, tile=TILE):
    return plan_linear("x", assumed_mask(shape, tile, ratio), asked, CostModel(card_of(target), load))


def test_large_linears_have_roofline_times():
    plan = planned((11008, 4096), 0.4)
    assert (plan.lowering, plan.reason) == ("plugin", None)
    device = card_of("a6000").rated
    slabs = plan.slabs.sparse / (plan.slabs.sparse + plan.slabs.dense)
    for times, tokens in ((plan.predicted.prefill, 16 * 128), (plan.predicted.decode, 16)):
        expected = predict(device, Linear(11008, 4096, slabs), tokens)
        assert (times.dense, times.hybrid) == (expected.dense_microseconds, expected.microseconds)
        assert times.sparse == predict(device, Linear(11008, 4096, 1.0), tokens).microseconds
        assert times.sparse < times.hybrid < times.dense


@pytest.mark.parametrize(
    ("shape", "ratio", "reason"),
    [
        ((576, 576), 0.5, Reason(kind=ReasonKind.SMALL_LINEAR, card="A6000")),
        ((4096, 4096), 0.01, Reason(kind=ReasonKind.LITTLE_SPARSE, card="A6000")),
        ((4096, 4096), 0.0, Reason(kind=ReasonKind.NO_SPARSE_TILE)),
    ],
)
def test_auto_is_dense_where_nothing_gains(shape, ratio, reason):
    plan = planned(shape, ratio)
    assert (plan.lowering, plan.reason) == ("dense", reason)
    assert plan.reason == reason and plan.bytes_after == plan.bytes_before


def test_auto_takes_the_faster_lowering():
    for ratio in (0.02, 0.05, 0.1, 0.2, 0.3, 0.5):
        for shape in ((1024, 4096), (4096, 1024), (4096, 4096)):
            for target in ("a6000", "a100", "l4", "h100"):
                plan = planned(shape, ratio, target)
                dense, hybrid = (
                    plan.predicted.prefill.__dict__[kind] + 127 * plan.predicted.decode.__dict__[kind]
                    for kind in ("dense", "hybrid")
                )
                assert plan.lowering == ("plugin" if hybrid < dense else "dense")
                assert bool(plan.reason) == (plan.lowering == "dense")


def test_what_is_asked_for_wins_over_the_prediction():
    assert planned((576, 576), 0.5, asked="plugin").lowering == "plugin"
    for asked in ("dense", "split"):
        plan = planned((11008, 4096), 0.4, asked=asked)
        assert (plan.lowering, plan.reason) == (asked, Reason(kind=ReasonKind.ASKED))
        assert plan.predicted is not None
    assert planned((11008, 4096), 0.0, asked="split").reason.kind is ReasonKind.NO_SPARSE_TILE


def test_narrow_tiles_need_split():
    for asked, lowering in (("plugin", "dense"), ("auto", "dense"), ("split", "split")):
        plan = planned((256, 256), 0.1, asked=asked, tile=(128, 4))
        assert plan.lowering == lowering and plan.reason
    expected = Reason(kind=ReasonKind.SMALL_TILES, tile=(128, 4))
    assert planned((256, 256), 0.1, tile=(128, 4)).reason == expected


@pytest.mark.parametrize(("prompt", "way", "speedup"), [(2048, Way.DENSE_PATH, 0.99), (32, Way.MMA_SP, 0.69)])
def test_prompts_stay_dense_on_hopper(prompt, way, speedup):
    prompts = planned((11008, 4096), 0.4, "h100", load=Workload(batch=16, prompt=prompt, generated=2))
    assert prompts.lowering == "dense"
    assert (prompts.reason.kind, prompts.reason.card) == (ReasonKind.PROMPTS, "H100")
    assert prompts.reason.slower == prompts.predicted.prefill.slower
    assert (prompts.reason.slower.way, prompts.reason.slower.speedup) == (
        way,
        pytest.approx(speedup, abs=0.01),
    )
    assert (
        planned((11008, 4096), 0.4, "h100", load=Workload(batch=16, prompt=128, generated=512)).lowering
        == "plugin"
    )
    assert (
        planned((11008, 4096), 0.4, "a100", load=Workload(batch=16, prompt=2048, generated=2)).lowering
        == "plugin"
    )


def test_auto_without_card_is_the_plugin():
    masks = {"small": assumed_mask((576, 576), TILE, 0.4), "empty": assumed_mask((576, 576), TILE, 0.0)}
    plans = plan_linears(masks, "auto")
    assert [plan.lowering for plan in plans.values()] == ["plugin", "dense"]
    assert plans["small"].predicted is None


def test_split_linears_take_the_libraries_times():
    """Half of the rows 2:4: the time lies between all dense and all 2:4, and three linears of one X round it once."""
    costs = CostModel(card_of("a100-40"), Workload(batch=1, prompt=2048, generated=1))
    shape, half = (4096, 4096), SplitRow(products=2, sparse_weights=2048 * 4096)
    for weights in (FLOAT16, W8A8):
        mixed = costs.of_split([(shape, half)], weights).prefill
        assert mixed.sparse < mixed.hybrid < 1.2 * mixed.unpruned
        whole = costs.of_split([(shape, SplitRow(products=1, sparse_weights=4096**2))], weights).prefill
        assert whole.hybrid == whole.sparse
        three = costs.of_split([(shape, half)] * 3, weights).prefill
        rounding = 0.0 if weights is FLOAT16 else quantise_time(costs.card.rated, 2048, 4096)
        assert three.hybrid == pytest.approx(3 * mixed.hybrid - 2 * rounding)
