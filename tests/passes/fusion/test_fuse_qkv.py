"""Linears of one X that share a node, reasons why others do not, and a model with grouped queries."""

import logging
import re

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from masklearn.masks.linear_mask import LinearMask
from masklearn.model.checkpoint import Checkpoint
from patch_compile.onnx_io.runnable import runnable_onnx
from patch_compile.packing.fusion import FUSIONS
from patch_compile.passes import lowering_passes, run_passes
from patch_compile.passes.find_linears import lowerable_linears
from patch_compile.passes.write import export_graph, write_hybrid
from patch_compile.planning.lowering import plan_linears
from tests.graphs import graph_of, outputs
from tests.mosaics import masked_by_hand, random_mask
from tests.onnx_export.tiny import OrtDecoder, save_tiny, tolerance

K = 32
ROWS = {"l.0.q": 192, "l.0.k": 72, "l.0.v": 40, "l.0.w": 128, "l.1.q": 64}
HALF = ir.DataType.FLOAT16
HEADS = "Reshape"
# 6 heads of 16 for queries, 2 for keys and values.
SIZES = {
    "hidden_size": 96,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "num_hidden_layers": 2,
}


def product(linear: str, x: str = "x", *, bias: bool = False, then: str = HEADS) -> str:
    """A linear and its reader, the graph output `y_<linear>`."""
    w, last = linear.replace(".", "_"), f"h_{linear}".replace(".", "_")
    text = f"t_{w} = Transpose <perm = [1, 0]> ({w}_weight) {last if not bias else 'p_' + w} = MatMul ({x}, t_{w}) "
    text += f"{last} = Add (p_{w}, {w}_bias) " if bias else ""
    return text + {
        HEADS: f"y_{w} = Reshape ({last}, heads) ",
        "scaled": f"c_{w} = Cast <to = 1> ({last}) s_{w} = Mul (c_{w}, eighth) y_{w} = Reshape (s_{w}, heads) ",
        "": f"y_{w} = Identity ({last}) ",
        "other": f"y_{w} = Reshape ({last}, heads) z_{w} = Neg ({last}) ",
        "residual": f"y_{w} = Add ({last}, {last.replace('h_', 'r_')}) ",
    }[then]  # fmt: skip


def weights() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(3)
    made = {}
    for name, (mask, pattern) in masks().items():
        values = rng.standard_normal((ROWS[name], K)).astype(np.float16)
        made[f"{name}.weight"] = masked_by_hand(values, mask, pattern)
        made[f"{name}.bias"] = rng.standard_normal(ROWS[name]).astype(np.float16)
    return made


def masks(dense: tuple[str, ...] = ()) -> dict[str, tuple[LinearMask, np.ndarray]]:
    """Masks with some tiles 2:4; linears of `dense` have none."""
    made = {}
    for seed, (name, rows) in enumerate(ROWS.items()):
        tile = (128, 128) if name == "l.0.w" else (64, 64)
        mask, pattern = random_mask((rows, K), tile, 0.0 if name in dense else 0.6, seed)
        tiles = mask.tiles.copy()
        tiles[0, 0] = name not in dense
        made[name] = LinearMask.from_candidate(tile, tiles, pattern), pattern
    return made


def model_with(body: str, *results: str) -> ir.Model:
    """A graph with inputs x and x2 [b, 32] and a residual, and heads of 8."""
    declared = ", ".join(
        f"float16[{rows},{K}] {n}_weight, float16[{rows}] {n}_bias, float16[b,{rows}] r_{n}"
        for n, rows in ((name.replace(".", "_"), rows) for name, rows in ROWS.items())
    )
    promised = ", ".join(
        f"{'float' if f's_{r[2:]} ' in body else 'float16'}[{'b, m' if f'h_{r[2:]}' == r else 'b, m, 8'}] {r}"
        for r in results
    )
    constants = "heads = Constant <value_ints = [0, -1, 8]> () eighth = Constant <value = float {0.125}> () "
    model = graph_of(
        f"agraph (float16[b,{K}] x, float16[b,{K}] x2, {declared}) => ({promised}) {{ {constants}{body} }}"
    )
    data = weights()
    for value in list(model.graph.inputs):
        name = (
            re.sub(r"_(weight|bias)$", r".\1", str(value.name))
            .replace("l_0_", "l.0.")
            .replace("l_1_", "l.1.")
        )
        if name in data:
            model.graph.inputs.remove(value)
            value.name, value.const_value = name, ir.tensor(data[name], name=name)
            model.graph.initializers[name] = value
        if not value.uses():
            model.graph.inputs.remove(value) if value.is_graph_input() else model.graph.initializers.pop(
                value.name
            )
    for node in model.graph:
        made = node.outputs[0]
        if node.op_type in ("MatMul", "Add", "Identity", "Neg"):
            made.type = ir.TensorType(HALF)
            rows = next(r for n, r in ROWS.items() if str(made.name).endswith(f"_{n.replace('.', '_')}"))
            made.shape = ir.Shape(["b", rows])
    return model


def feed_of(model: ir.Model) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    return {
        str(value.name): rng.standard_normal((5, value.shape[1])).astype(np.float16)
        for value in model.graph.inputs
    }


def packed(model: ir.Model, dense: tuple[str, ...] = (), fuse: tuple[str, ...] = tuple(FUSIONS)):
    """Pack the linears in place and return the compiled plan."""
    found = {name: mask for name, (mask, _) in masks(dense).items() if name in lowerable_linears(model)}
    lowering = lowering_passes(plan_linears(found), found, weights().__getitem__, HALF, fuse=fuse)
    run_passes(model, lowering.in_order)
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    return lowering.plan


def check(body: str, results: str, nodes: set[str], **options) -> ir.Model:
    """Check that a body packs into these nodes and its outputs change only by the order of sums."""
    model, before = (model_with(body, *results.split()) for _ in range(2))
    plan = packed(model, **options)
    found = {str(node.name) for node in model.graph if node.op_type == "PatchLinear"}
    assert found == nodes == {one.node.name for one in plan.values() if one.lowering == "plugin"}
    feed = feed_of(before)
    for now, then in zip(outputs(model, **feed), outputs(before, **feed), strict=True):
        then = then.astype(np.float32)
        np.testing.assert_allclose(
            now.astype(np.float32), then, rtol=2.0**-9, atol=2.0**-9 * np.abs(then).max()
        )
    return model


Q, KEY, V = (product(f"l.0.{name}") for name in "qkv")
OUT = "y_l_0_q y_l_0_k y_l_0_v"


def test_linears_of_one_input_share_a_node():
    """All linears but the last are padded to whole panels of 64: 192, 72 and 40 rows."""
    model = check(Q + KEY + V, OUT, {"l.0.q+k+v"})
    (node,) = [node for node in model.graph if node.op_type == "PatchLinear"]
    assert node.attributes["out_features"].as_int() == 192 + 128 + 40
    (split,) = [node for node in model.graph if node.op_type == "Split"]
    assert split.inputs[1].const_value.numpy().tolist() == [192, 72, 56, 40]
    assert [output.name for output in split.outputs if output.uses()] == ["h_l_0_q", "h_l_0_k", "h_l_0_v"]
    assert [tuple(output.shape) for output in split.outputs] == [("b", n) for n in (192, 72, 56, 40)]


def test_biases_are_padded_as_the_rows_are():
    body = "".join(product(f"l.0.{name}", bias=True) for name in "qkv")
    model = check(body, OUT, {"l.0.q+k+v"})
    bias = model.graph.initializers["l.0.q+k+v.bias"].const_value.numpy()
    data = weights()
    expected = [data["l.0.q.bias"], data["l.0.k.bias"], np.zeros(56, np.float16), data["l.0.v.bias"]]
    np.testing.assert_array_equal(bias, np.concatenate(expected))
    assert not [name for name in model.graph.initializers if name.endswith((".q.bias", ".k.bias", ".v.bias"))]


def test_scales_and_casts_may_precede_heads():
    check(product("l.0.q", then="scaled") + KEY, "y_l_0_q y_l_0_k", {"l.0.q+k"})


def test_a_linear_that_stays_dense_stays_outside():
    check(Q + KEY + V, OUT, {"l.0.q+v"}, dense=("l.0.k",))
    check(Q + KEY, "y_l_0_q y_l_0_k", {"l.0.q"}, dense=("l.0.k",))


@pytest.mark.parametrize(
    ("body", "results", "nodes", "reason"),
    [
        (Q + product("l.0.k", "x2"), "y_l_0_q y_l_0_k", "l.0.q l.0.k", "no other linear of its block that reads X"),
        (Q + product("l.1.q"), "y_l_0_q y_l_1_q", "l.0.q l.1.q", "no other linear of its block that reads X"),
        (Q + KEY + product("l.0.v", bias=True), OUT, "l.0.q+k l.0.v", "l.0.v .* the same weight type and a bias"),
        (Q + product("l.0.k", then=""), "y_l_0_q y_l_0_k", "l.0.q l.0.k", "Identity reads it, which does not cut"),
        (Q + product("l.0.k", then="other"), "y_l_0_q y_l_0_k z_l_0_k", "l.0.q l.0.k", "Neg reads it, which"),
        (Q + KEY, "y_l_0_q y_l_0_k h_l_0_k", "l.0.q l.0.k", "l.0.k is .*: it is an output of the graph"),
        (Q + product("l.0.k", then="residual"), "y_l_0_q y_l_0_k", "l.0.q l.0.k", "it has an epilogue: residual"),
    ],
)  # fmt: skip
def test_what_is_refused_and_why(body, results, nodes, reason, caplog):
    with caplog.at_level(logging.DEBUG, "patch_compile.passes.linear_node"):
        check(body, results, {*nodes.split()})
    assert re.search(reason, caplog.text), caplog.text


def test_panels_are_as_high_as_the_lowest():
    """A linear of 128 rows has panels of 64 when it is packed with a linear of such panels."""
    body, results = Q + product("l.0.w"), "y_l_0_q y_l_0_w"
    alone = check(body, results, {"l.0.q", "l.0.w"}, fuse=())
    assert [n.attributes["panel_rows"].as_int() for n in alone.graph if n.op_type == "PatchLinear"] == [
        64,
        128,
    ]
    model = check(body, results, {"l.0.q+w"})
    assert [n.attributes["panel_rows"].as_int() for n in model.graph if n.op_type == "PatchLinear"] == [64]


@pytest.mark.parametrize(("variant", "dtype"), [("llama", "float16"), ("qwen2-mixed", "bfloat16")])
def test_grouped_queries_keep_their_logits(variant, dtype, tmp_path):
    """k and v are not whole panels, the three masks differ, and k stays dense in one block."""
    source = save_tiny(variant, tmp_path / "model", **SIZES)
    graph = export_graph(source, dtype=dtype, opset=23)
    sites = {name: site for name, site in lowerable_linears(graph).items() if name != "lm_head"}
    shares = {"model.layers.1.self_attn.k_proj": 0.0}
    found = {
        n: random_mask(s.shape, (32, 64), shares.get(n, 1.0), i)[0] for i, (n, s) in enumerate(sites.items())
    }
    ids, logits, plan = np.arange(12)[None] % 100, [], {}
    for fuse in ((), ("bias", "qkv")):
        path = tmp_path / f"{len(fuse)}.onnx"
        plan = write_hybrid(
            graph.clone(), Checkpoint.open(source), found, plan_linears(found), path, dtype, fuse=fuse
        )
        onnx.checker.check_model(str(path), full_check=True)
        logits.append(OrtDecoder(runnable_onnx(path, tmp_path)).start(ids, np.ones_like(ids)))
    nodes = [plan[f"model.layers.{i}.self_attn.q_proj"].node.name for i in range(2)]
    assert nodes == [
        "model.layers.0.self_attn.q_proj+k_proj+v_proj",
        "model.layers.1.self_attn.q_proj+v_proj",
    ]
    roundoff = {"float16": 2.0**-11, "bfloat16": 2.0**-8}[dtype]
    np.testing.assert_allclose(logits[1], logits[0], atol=tolerance(logits[0], 2, roundoff))
    assert np.abs(logits[0]).max() > 0.1
