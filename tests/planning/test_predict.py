"""Predictions for the whole model: the roofline's figures, limits, and remarks."""

from dataclasses import replace

import pytest

from masklearn.model.checkpoint import Checkpoint
from masklearn.model.coverage import covered_linears_of
from patch_compile.artifacts.plan import Unpredicted
from patch_compile.artifacts.prediction import Workload
from patch_compile.hardware.cards import rated_cards
from patch_compile.packing.fusion import FUSIONS
from patch_compile.planning.cards import card_of
from patch_compile.planning.cost import CostModel
from patch_compile.planning.outline import Outline, outline_of, outline_of_llama
from patch_compile.planning.planner import plan_assumed, plan_json
from patch_compile.planning.predict import predict_whole
from patch_compile.planning.roofline.assumptions import ASSUMED
from patch_compile.planning.roofline.linear_roofline import DENSE_PATH, Linear, dense_time, predict
from patch_compile.planning.roofline.rest import Model, gating_time, rest_of
from patch_compile.report.prediction import remarks
from tests.planning.llama import LLAMA_2_7B, write_hollow_llama

LOAD = Workload(batch=16, prompt=128, generated=128)
LLAMA = Model(32, 4096, 11008, 32, 32, 128, 32000, name="LLaMA-2-7B")


@pytest.fixture(scope="module")
def llama(tmp_path_factory) -> tuple[Outline, dict[str, tuple[int, int]]]:
    checkpoint = Checkpoint.open(write_hollow_llama(tmp_path_factory.mktemp("models") / "7b"))
    coverage = covered_linears_of(checkpoint)
    return outline_of(checkpoint, coverage), dict(coverage.linears)


def whole(llama, ratio, target="a6000", lowering="plugin", load=LOAD):
    outline, linears = llama
    costs = CostModel(card_of(target), load)
    plans = plan_assumed(linears, (128, 128), dict.fromkeys(linears, ratio), lowering, costs, outline=outline)
    return predict_whole(plans.values(), outline, costs), plans, costs


def test_headers_suffice_for_an_outline(llama):
    outline, linears = llama
    assert replace(outline.model, name=LLAMA.name) == LLAMA
    assert outline.others == () and len(linears) == 32 * 7
    same, by_sizes = outline_of_llama(outline.model)
    assert same == linears and by_sizes == outline


@pytest.mark.parametrize("target", ["a6000", "a100", "rtx 4090", "h100"])
@pytest.mark.parametrize("fuse", [(), tuple(FUSIONS)], ids=["apart", "together"])
@pytest.mark.parametrize("gating", [False, True])
def test_products_are_counted_as_they_are_compiled(llama, target, fuse, gating):
    """The dense model, as TensorRT builds it, merges linears of one input by itself; the planned one as far as they share a
    node. The saving of SiLU·mul in a node is counted where it is asked for."""
    outline, linears = llama
    outline = replace(outline, nodes=outline.nodes if fuse else ())
    _, plans, costs = whole((outline, linears), 0.5, target)
    costs = replace(costs, card=replace(costs.card, assume=replace(ASSUMED, gating=gating)))
    found = predict_whole(plans.values(), outline, costs)
    model, device = LLAMA, costs.card.rated
    h, wide = model.hidden, model.intermediate
    merged = [(3 * h, h), (h, h), (2 * wide, h), (h, wide)]
    apart = [(h, h)] * 4 + [(wide, h)] * 2 + [(h, wide)]
    for phase, tokens, rest, runs in zip(
        (found.prefill, found.decode),
        (16 * 128, 16),
        rest_of(device, model, 16, 128, 128),
        (1, 127),
        strict=True,
    ):
        dense = rest + 32 * sum(dense_time(device, Linear(*shape, 0), tokens)[0] for shape in merged)
        assert phase.dense_ms == pytest.approx(runs * dense / 1e3)
        linears = [Linear(*shape, 1.0) for shape in (merged if fuse else apart)]
        if fuse:
            (rows,) = plans["model.layers.0.mlp.gate_proj"].gated_codes
            linears[2] = replace(linears[2], gated=True, panel_rows=rows)
        products = [predict(device, linear, tokens) for linear in linears]
        planned = rest + 32 * sum(product.microseconds for product in products)
        if fuse and gating and products[2].config != DENSE_PATH:
            planned -= 32 * gating_time(device, wide, tokens)
        assert phase.planned_ms == pytest.approx(runs * planned / 1e3)


def test_the_graph_may_refuse_a_node(llama):
    found, plans, costs = whole(llama, 0.5)
    refused = llama[0].compiled(plans.values())
    assert refused.nodes == ()
    apart = predict_whole(plans.values(), refused, costs)
    assert (
        apart.decode.planned_ms > found.decode.planned_ms and apart.decode.dense_ms == found.decode.dense_ms
    )


@pytest.mark.parametrize("target", [card.name for card in rated_cards()])
@pytest.mark.parametrize(
    "load",
    [
        LOAD,
        Workload(batch=1, prompt=1, generated=2),
        Workload(batch=1, prompt=32, generated=64),
        Workload(batch=300, prompt=16, generated=16),
    ],
    ids=str,
)
def test_nothing_is_promised_beyond_the_limits(llama, target, load):
    for ratio in (0.1, 0.35, 0.5):
        for lowering in ("auto", "plugin", "mlp.*=plugin,self_attn.*=dense"):
            found, plans, _ = whole(llama, ratio, target, lowering, load)
            p = sum(2 * x.zeroed for x in plans.values()) / sum(
                x.shape[0] * x.shape[1] for x in plans.values()
            )
            assert found.prefill.limit == pytest.approx(1 / (1 - p / 2))
            if load.batch <= 16:
                assert found.decode.limit == pytest.approx(1 / (1 - 0.4375 * p))
            for phase in (found.prefill, found.decode, found.end_to_end):
                assert 0 < phase.speedup <= phase.limit
            if lowering == "auto":
                assert found.end_to_end.speedup >= 1


def test_what_is_not_covered_is_in_both_models(tmp_path):
    checkpoint = Checkpoint.open(write_hollow_llama(tmp_path / "m", LLAMA_2_7B | {"num_hidden_layers": 2}))
    costs = CostModel(card_of("a6000"), LOAD)
    times = []
    for exclude in ((), ("*v_proj",)):
        coverage = covered_linears_of(checkpoint, exclude=exclude)
        ratios = {name: 0.0 if "v_proj" in name else 0.4 for name in coverage.linears}
        plans = plan_assumed(coverage.linears, (128, 128), ratios, "plugin", costs)
        times.append(predict_whole(plans.values(), outline_of(checkpoint, coverage), costs).end_to_end)
    assert times[0].dense_ms == pytest.approx(times[1].dense_ms)
    assert times[0].planned_ms == pytest.approx(times[1].planned_ms)


def test_an_encoder_has_no_decode_steps(llama):
    found, _, _ = whole(llama, 0.4, load=LOAD.without_decode())
    assert found.decode.dense_ms == found.decode.planned_ms == 0 and found.decode.speedup == 1
    assert found.end_to_end.speedup == found.prefill.speedup
    assert str(LOAD.without_decode()) == "batch 16, 128 tokens"


def test_an_encoder_is_one_pass_both_ways(llama):
    """Its attention has twice the products, and it has no head, sampling or kernel for its activation."""
    card, slow = card_of("a6000").rated, replace(ASSUMED, other_kernel=0.0, launch=0.0)
    decoder, encoder = LLAMA, replace(LLAMA, encoder=True)

    def grown(model):
        short, long = (rest_of(card, model, 1, tokens, 1, slow)[0] for tokens in (16_384, 32_768))
        return long - 2 * short

    assert grown(encoder) == pytest.approx(2 * grown(decoder), rel=0.02)
    assert rest_of(card, encoder, 64, 128, 1)[0] < rest_of(card, decoder, 64, 128, 1)[0]
    wide = replace(encoder, vocabulary=2 * encoder.vocabulary, intermediate=2 * encoder.intermediate)
    assert rest_of(card, wide, 64, 128, 1) == rest_of(card, encoder, 64, 128, 1)


def test_without_a_card_nothing_is_predicted(llama):
    _, plans, _ = whole(llama, 0.4)
    found = plan_json(plans, llama[0], None)
    assert found.whole is None and found.unpredicted is Unpredicted.NO_CARD
    (remark,) = remarks(found.linears, found)
    assert remark.startswith("nothing is predicted, for the table of cards has no data sheet for this target")
    assert found.totals.bytes_before == 2 * 32 * (4 * 4096**2 + 3 * 4096 * 11008)
