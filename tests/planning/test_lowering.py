import numpy as np
import pytest

from patch_compile.artifacts.plan import Node
from patch_compile.packing.format import pack, pack_together
from patch_compile.packing.index import gated_panels
from patch_compile.planning.lowering import asked_lowerings, joint_slabs, parse_lowering, plan_linear
from patch_compile.recipe import Recipe
from tests.mosaics import random_mask
from tests.refusals import refused

NAMES = [f"model.layers.{i}.{kind}" for i in (0, 1) for kind in ("self_attn.v_proj", "mlp.up_proj")]


@pytest.mark.parametrize("shape", [(576, 576), (192, 576), (1536, 576), (300, 100)])
@pytest.mark.parametrize("share", [0.4, 1.0])
def test_the_plan_announces_what_packing_gives(shape, share):
    mask, _ = random_mask(shape, (64, 64), share, 2)
    plan = plan_linear("x", mask)
    packed = pack(np.zeros(shape, np.uint16), mask, plan.panel_rows)
    assert plan.lowering == "plugin"
    assert plan.reason is None
    assert (plan.slabs.dense, plan.slabs.sparse) == (len(packed.dense), len(packed.sparse))
    assert plan.bytes_after == packed.nbytes
    assert plan.bytes_before == 2 * shape[0] * shape[1]
    assert plan.zeroed == mask.zeroed
    assert plan.node == Node(name="x", linears=("x",))


@pytest.mark.parametrize("shape", [(512, 576), (304, 100)])
@pytest.mark.parametrize("shares", [(0.4, 1.0), (1.0, 0.6)])
@pytest.mark.parametrize(("tile", "rows"), [(128, 128), (64, 128), (32, 64)])
def test_gate_and_up_share_their_nodes_numbers(shape, shares, tile, rows):
    masks = [random_mask(shape, (tile, 64), share, 2)[0] for share in shares]
    node = Node(name="gate+up", linears=("gate", "up"), activation="silu", gated=True)
    planned = [plan_linear(name, mask) for name, mask in zip(node.linears, masks, strict=True)]
    shared, slabs = planned[0].heights_with(planned[1])[0], joint_slabs(planned)
    plans = [plan.fused(masks, node, shared // 2) for plan in planned]
    parts = [(np.zeros(shape, np.uint16), mask) for mask in masks]
    packed = pack_together(parts, rows, gated_panels(shape[0], rows))
    assert shared == rows
    assert sum(plan.bytes_after for plan in plans) == packed.nbytes
    assert [plan.slabs for plan in plans] == [slabs] * 2
    assert slabs.by_kind == packed.stored
    assert {(plan.rows_of_panels, plan.node) for plan in plans} == {(rows, node)}


def test_a_residual_keeps_the_panels():
    mask, _ = random_mask((512, 512), (128, 128), 0.5, 0)
    plan = plan_linear("x", mask)
    assert plan.panel_rows == 128
    node = Node(name="x", linears=("x",), residual=True)
    assert plan.fused([mask], node) == plan.model_copy(update={"node": node})


def test_a_lowering_decides_node_and_bytes():
    mask, _ = random_mask((512, 512), (128, 128), 0.5, 0)
    plan, dense = (plan_linear("x", mask, asked) for asked in ("plugin", "dense"))
    changed = plan.changed(lowering="dense", reason=dense.reason)
    assert changed == dense and dense.node is None and dense.bytes_after == dense.bytes_before
    assert dense.changed(lowering="plugin", reason=None) == plan


def other_kinds():
    from masklearn.masks.kinds.table import FAMILIES
    from masklearn.masks.linear_mask import LinearMask

    scores = np.random.default_rng(0).random((128, 128))
    kinds = np.array([[0, 1], [2, 1]], np.uint8)
    codes = {"2:4": FAMILIES["2:4"].best(scores, 2), "n:16": FAMILIES["n:16"].best(scores, 8)}
    return LinearMask.from_codes((128, 128), (64, 64), kinds, codes)


@pytest.mark.parametrize("asked", ["auto", "plugin"])
def test_slabs_of_every_kind_are_counted(asked):
    mask = other_kinds()
    plan = plan_linear("x", mask, asked)
    assert (plan.lowering, plan.slabs.by_kind) == ("plugin", {"dense": 1, "2:4": 2, "8:16": 1})
    assert plan.bytes_after == pack(np.zeros((128, 128), np.uint16), mask, plan.panel_rows).nbytes


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("auto", ["auto"] * 4),
        ("split", ["split"] * 4),
        ("mlp.*=plugin,*.v_proj=dense", ["dense", "plugin"] * 2),
        ("mlp.*=plugin", ["auto", "plugin"] * 2),
        ("*=plugin, layers.1.*=split", ["plugin", "plugin", "split", "split"]),
        (r"re:.*\.\d{1,2}\.mlp\..*=dense,v_proj=split", ["split", "dense"] * 2),
        ("re:.*(?=up_proj).*=plugin", ["auto", "plugin"] * 2),
    ],
)
def test_the_last_matching_lowering_decides(text, expected):
    assert parse_lowering(text) == text
    assert list(asked_lowerings(text, NAMES).values()) == expected


@pytest.mark.parametrize("text", ["fast", "mlp.*=fast", "plugin,dense", "re:(=plugin"])
def test_what_is_misspelled_is_said(text):
    with refused(ValueError):
        parse_lowering(text)
    with refused():
        Recipe.parse({"model": "m", "ratio": 0.4, "lowering": text})


def test_unmatched_patterns_list_the_linears():
    with refused():
        asked_lowerings("*=plugin,q_proj=dense", NAMES)


def test_overruled_patterns_are_refused():
    with refused():
        asked_lowerings("layers.1.*=split,*=plugin", NAMES)
