"""Linears of one input that become one product, by names and by the graph, and their lowerings by `auto`. Experts are
counted that a token runs through."""

import itertools
from dataclasses import replace

import pytest

from masklearn.masks.kinds.table import TWO_FOUR
from masklearn.model.architectures import ARCHITECTURES
from masklearn.model.checkpoint import Checkpoint
from masklearn.model.coverage import covered_linears, covered_linears_of
from masklearn.quant.table import FLOAT16, INT4, W8A8
from patch_compile.artifacts.plan import Node
from patch_compile.artifacts.prediction import Workload
from patch_compile.packing.fusion import FUSIONS
from patch_compile.planning.cards import card_of
from patch_compile.planning.cost import CostModel
from patch_compile.planning.lowering import plan_linear
from patch_compile.planning.outline import Outline, outline_of, outline_of_llama
from patch_compile.planning.planner import assumed_tiles, plan_assumed, settle_together
from patch_compile.planning.predict import predict_whole
from patch_compile.planning.products import (
    InputGroup,
    compiled_groups,
    cost_together,
    fused_groups,
    groups_by_name,
    products_of,
)
from patch_compile.planning.roofline.rest import Model
from tests.families import write_family
from tests.onnx_export.tiny import ENCODERS, LAYERS, VARIANTS, save_tiny
from tests.planning.llama import LLAMA_2_7B, write_hollow_llama

LOAD = Workload(batch=16, prompt=128, generated=128)
# k and v on their own are too small for a launch on an A6000
SMALL = LLAMA_2_7B | {"hidden_size": 2048, "intermediate_size": 5632, "num_hidden_layers": 1, "num_attention_heads": 16,
                      "num_key_value_heads": 2}  # fmt: skip
FUSED_ALREADY = ("gpt2", "gpt_neox", "phi3")


@pytest.mark.parametrize("variant", [*VARIANTS, "bert", "distilbert", "mpnet"])
def test_names_tell_what_the_graph_will(variant, tmp_path):
    """The passes find the same in these models: see tests/passes/fusion/test_fused_models.py."""
    kind, settings = (VARIANTS | ENCODERS)[variant]
    layers = settings.get("num_hidden_layers", LAYERS)
    coverage = covered_linears_of(Checkpoint.open(save_tiny(variant, tmp_path / "m")))
    found = groups_by_name(coverage.linears, ARCHITECTURES[kind])
    ends = [({name.rpartition(".")[2] for name in one.linears}, one.gated) for one in found]
    qkv = {
        "bert": {"query", "key", "value"},
        "distilbert": {"q_lin", "k_lin", "v_lin"},
        "mpnet": {"q", "k", "v"},
    }
    expected = (
        [] if kind in FUSED_ALREADY else [(qkv.get(kind, {"q_proj", "k_proj", "v_proj"}), False)] * layers
    )
    if kind not in (*FUSED_ALREADY, *qkv, "opt"):
        expected += [({"gate_proj", "up_proj"}, True)] * layers
    assert ends == expected


def test_what_is_switched_off_shares_no_node():
    pair, three = InputGroup(("m.gate", "m.up"), gated=True), InputGroup(("a.q", "a.k", "a.v"))
    shapes = dict.fromkeys((*pair.linears, *three.linears), (72, 64))
    assert fused_groups([three, pair], tuple(FUSIONS), shapes) == (three, pair)
    assert fused_groups([three, pair], ("gated",), shapes) == (pair,)
    assert fused_groups([three, pair], ("qkv", "bias"), shapes) == (three,)
    assert fused_groups([pair], ("gated",), dict.fromkeys(pair.linears, (76, 64))) == ()  # of broken turns


@pytest.fixture
def small(tmp_path):
    checkpoint = Checkpoint.open(write_hollow_llama(tmp_path / "small", SMALL))
    costs = CostModel(card_of("a6000"), LOAD)

    def plan(lowering="auto", ratio=0.5, fuse=tuple(FUSIONS), exclude=()):
        coverage = covered_linears_of(checkpoint, exclude=exclude)
        outline = outline_of(checkpoint, coverage, fuse)
        plans = plan_assumed(
            coverage.linears, (128, 128), dict.fromkeys(coverage.linears, ratio), lowering, costs
        )
        return plans, settle_together(plans, lowering, outline, costs), outline, costs

    return plan


def lowerings(plans, *ends):
    return [plan.lowering for end in ends for name, plan in plans.items() if name.endswith(end)]


def end_to_end(plans, outline: Outline, costs: CostModel) -> float:
    return predict_whole(plans.values(), outline, costs).end_to_end.planned_ms


QKV = ("q_proj", "k_proj", "v_proj")


def test_small_linears_are_packed_together(small):
    alone, together, outline, costs = small()
    assert lowerings(alone, *QKV) == ["plugin", "dense", "dense"]
    assert lowerings(together, *QKV) == ["plugin"] * 3
    assert all(plan.reason is None for plan in together.values() if plan.lowering == "plugin")
    assert end_to_end(together, outline, costs) < end_to_end(alone, outline, costs)


@pytest.mark.parametrize("ratio", [0.1, 0.3, 0.5])
@pytest.mark.parametrize("fuse", [(), tuple(FUSIONS)])
def test_no_other_choice_is_faster(small, ratio, fuse):
    _, settled, outline, costs = small(ratio=ratio, fuse=fuse)
    fastest = end_to_end(settled, outline, costs)
    for group in outline.groups:
        for bits in range(2 ** len(group.linears)):
            other = {
                name: settled[name].changed(lowering="plugin" if bits >> i & 1 else "dense")
                for i, name in enumerate(group.linears)
            }
            assert end_to_end(settled | other, outline, costs) >= fastest * (1 - 1e-12)
    assert all(bool(plan.reason) == (plan.lowering == "dense") for plan in settled.values())


def test_what_is_asked_for_is_left_alone(small):
    for lowering, expected in (("plugin", "plugin"), ("dense", "dense"), ("split", "split")):
        plans, settled, *_ = small(lowering)
        with_panels = {
            name: plan.changed(gated_codes=settled[name].gated_codes) for name, plan in plans.items()
        }
        assert settled == with_panels and {plan.lowering for plan in settled.values()} == {expected}
    _, settled, *_ = small("q_proj=dense")
    assert lowerings(settled, "q_proj") == ["dense"]


def test_uncovered_linears_are_dense(small):
    _, settled, outline, _ = small(exclude=("*v_proj",))
    assert [plan.name.rpartition(".")[2] for plan in outline.others] == ["v_proj"]
    assert not lowerings(settled, "v_proj") and len(outline.groups[0].linears) == 3


def test_the_graph_says_what_shares_a_node(small):
    plans, *_ = small("plugin")
    names = [name for name in plans if name.endswith(("gate_proj", "up_proj"))]
    node = Node(name="gate+up", linears=tuple(names), activation="silu", gated=True)
    fused = {name: plans[name].changed(node=node) for name in names}
    assert compiled_groups((plans | fused).values()) == (InputGroup(tuple(names), gated=True),)
    assert compiled_groups(plans.values()) == ()


def pair_of(card, tokens, weights, ratio, fuse=tuple(FUSIONS), alike=True, tile=128):
    """Gate and up of a block of LLaMA-2-7B for one prompt of so many tokens: settled plans, outline, costs.

    alike: False for an up whose tiles are pruned where the gate's are not; tile: its rows.
    """
    costs = CostModel(card_of(card), Workload(batch=1, prompt=tokens, generated=1))
    linears, outline = outline_of_llama(Model(1, 4096, 11008, 32, 32, 128, 32000, name="block"), fuse)
    ratios, types = dict.fromkeys(linears, ratio), dict.fromkeys(linears, weights)
    plans = plan_assumed(linears, (tile, 128), ratios, "plugin", costs, None, types)
    if not alike:
        name = next(name for name in plans if name.endswith("up_proj"))
        tiles = assumed_tiles(linears[name], (tile, 128), ratio)
        other = replace(tiles, kinds=TWO_FOUR.code - tiles.kinds)
        plans[name] = plan_linear(name, other, "plugin", costs, weights)
    return settle_together(plans, "plugin", outline, costs), outline, costs


def is_apart(plans):
    (apart,) = {plan.apart for plan in plans.values() if plan.name.endswith(("gate_proj", "up_proj"))}
    assert not any(plan.apart for plan in plans.values() if plan.name.endswith(QKV))
    return apart


@pytest.mark.parametrize(
    ("card", "tokens", "weights", "apart"),
    [
        ("a100-80", 8192, W8A8, True),
        ("a100-80", 8192, FLOAT16, True),
        ("a100-80", 1, W8A8, False),
        ("a6000", 16, W8A8, True),
        ("a6000", 16, INT4, False),
    ],
)
def test_pairs_whose_tiles_differ_are_set_apart(card, tokens, weights, apart):
    """Slabs would be dense in one node, which saves a kernel and a launch: in decode these count for more."""
    for alike in (True, False):
        plans, outline, _ = pair_of(card, tokens, weights, 0.25, alike=alike)
        assert is_apart(plans) == (apart and not alike)
        pair = next(group.linears for group in outline.groups if group.gated)
        assert (pair in {node.linears for node in outline.nodes_of(plans.values())}) != is_apart(plans)


@pytest.mark.parametrize(
    ("card", "tokens", "tile", "rows"),
    [
        ("a100-80", 2048, 64, 128),
        ("a100-80", 2048, 128, 128),
        ("a100-80", 2048, 32, 64),
        ("rtx4090", 384, 64, 64),
        ("rtx4090", 384, 128, 64),
    ],
)
def test_pairs_have_the_faster_panels(card, tokens, tile, rows):
    plans, outline, costs = pair_of(card, tokens, FLOAT16, 0.25, tile=tile)
    pair = [plans[name] for group in outline.groups if group.gated for name in group.linears]
    free = [plan_linear(plan.name, assumed_tiles(plan.shape, (tile, 128), 0.25)) for plan in pair]
    times = {
        height: costs.total(
            cost_together(
                [one.changed(gated_codes={height: one.gated_codes[height]}) for one in free], True, costs
            ),
            "hybrid",
        )
        for height in free[0].heights_with(free[1])
    }
    assert list(times) == ([128, 64] if tile >= 64 else [64])
    assert pair[0].heights_with(pair[1]) == [min(times, key=lambda one: times[one])] == [rows]


@pytest.mark.parametrize("ratio", [0.0, 0.25, 0.5])
@pytest.mark.parametrize("card", ["a100-80", "a6000", "rtx4090", "h100"])
def test_pairs_take_the_faster_way(card, ratio):
    """With SiLU·mul, which two nodes leave to a kernel of its own."""
    for tokens, weights in itertools.product((1, 64, 512, 2048, 8192), (FLOAT16, W8A8)):
        plans, outline, costs = pair_of(card, tokens, weights, ratio, alike=tokens % 3 == 1)
        pair = [plans[name] for group in outline.groups if group.gated for name in group.linears]
        if any(plan.lowering != "plugin" for plan in pair):
            continue
        one, two = (
            sum(
                costs.total(cost_together(product, gated, costs), "hybrid")
                for product, gated in products_of(pair, nodes)
            )
            for nodes in ([InputGroup((pair[0].name, pair[1].name), gated=True)], [])
        )
        assert is_apart(plans) == (two + costs.gating(11008) < one)


@pytest.mark.parametrize(
    ("name", "shapes"),
    [
        ("mixtral", {"w1": (96, 64), "w3": (96, 64), "w2": (64, 96)}),
        ("gpt_oss", {"gate_up_proj": (192, 64), "down_proj": (64, 96)}),
    ],
)
def test_two_of_four_experts_are_counted(name, shapes, tmp_path):
    """Whichever way a checkpoint keeps them."""
    path = write_family(tmp_path / "model", name, num_hidden_layers=2)
    others = outline_of(Checkpoint.open(path), covered_linears(path)).others
    experts = {plan.name: plan.shape for plan in others if ".experts." in plan.name}
    assert len(experts) == 2 * 2 * len(shapes)
    assert {plan.rpartition(".")[2]: shape for plan, shape in experts.items()} == shapes
    assert not any(".experts.2." in plan for plan in experts)
