"""Linears of type w8a8 in a whole model, next to linears of int8 and of 16 bits."""

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime

from masklearn.masks.kinds.table import KINDS, PRUNED
from masklearn.masks.maskset import MaskSet
from masklearn.model.prune import masked_weight
from masklearn.quant.grid import Grid
from masklearn.quant.table import INT8, W8A8
from patch_compile.errors import PatchCompileError
from patch_compile.inspection.onnx_graph import inspect_onnx
from patch_compile.passes.lowering.packed_initializers import check_grid
from patch_compile.passes.write import write_hybrid
from tests.mosaics import mosaic
from tests.onnx_export.conftest import exports  # noqa: F401  (the session's exported graphs)
from tests.onnx_export.tiny import LAYERS
from tests.oracles.int8_products import product
from tests.passes.lowering.test_quantised_linears import ABOUT, logits, plan_of, quantised_model
from tests.refusals import refused

TYPES = {
    "gate_proj": W8A8,
    "up_proj": W8A8,
    "down_proj": W8A8,
    "q_proj": W8A8,
    "v_proj": W8A8,
    "o_proj": INT8,
}
OF_W8A8 = tuple(kind for kind in KINDS if kind.goes_with(W8A8))


def mosaics_of_w8a8(exports, folder, types=TYPES):  # noqa: F811
    """A checkpoint, and masks whose linears of w8a8 are mosaics of all kinds of tiles that go with the type."""
    source, masks = quantised_model(exports.model_dir("llama"), folder, types)
    ours = {
        name: mosaic(masks[name].shape, (64, 64), seed, OF_W8A8)
        for seed, (name, grid) in enumerate(masks.grids.items())
        if grid.type is W8A8
    }
    return source, MaskSet({**masks, **ours}, **ABOUT, grids=masks.grids)


def lone_node(model, node):
    """A session of one node of a model, with X as its input."""
    helper, element = onnx.helper, onnx.TensorProto.FLOAT16
    x, y = (helper.make_tensor_value_info(name, element, None) for name in (node.input[0], node.output[0]))
    stored = [tensor for tensor in model.graph.initializer if tensor.name in node.input]
    graph = helper.make_graph([node], "lone", [x], [y], stored)
    lone = helper.make_model(
        graph, opset_imports=model.opset_import, functions=model.functions, ir_version=10
    )
    return onnxruntime.InferenceSession(lone.SerializeToString(), providers=["CPUExecutionProvider"])


def test_onnx_runtime_computes_the_oracles_products(exports, tmp_path):  # noqa: F811
    """Each node of w8a8, in every bit. In the whole graph ONNX Runtime keeps more bits of X than it has."""
    source, masks = mosaics_of_w8a8(exports, tmp_path / "source")
    path = tmp_path / "hybrid.onnx"
    write_hybrid(exports.graph("llama"), source, masks, plan_of(masks), path, "float16", fuse=())
    model, products = onnx.load(path), 0
    for node in model.graph.node:
        grid = masks.grids.get(node.name)
        if grid is None or grid.type is not W8A8:
            continue
        weight = masked_weight(source.read(f"{node.name}.weight"), masks[node.name].keep())
        x = np.random.default_rng(products).standard_normal((2, 3, weight.shape[1])).astype(np.float16)
        exact = product(x, grid.integers(weight), grid.scales)
        (y,) = lone_node(model, node).run(None, {node.input[0]: x})
        np.testing.assert_array_equal(y, exact.astype(np.float16))
        products += 1
    assert products == 5 * LAYERS


def test_the_fused_nodes_keep_the_type(exports, tmp_path):  # noqa: F811
    source, masks = mosaics_of_w8a8(exports, tmp_path / "source")
    path = tmp_path / "hybrid.onnx"
    write_hybrid(exports.graph("llama"), source, masks, plan_of(masks), path, "float16")
    onnx.checker.check_model(str(path), full_check=True)
    found = inspect_onnx(path)
    assert not found.faults
    assert {row["linear"] for row in found.rows if row["6:8 slabs"]} > {
        "model.layers.1.mlp.gate_proj+up_proj"
    }
    assert {row["linear"]: row["weights"] for row in found.rows if ".1." in row["linear"]} == {
        "model.layers.1.self_attn.q_proj+v_proj": "w8a8",
        "model.layers.1.self_attn.k_proj": "float16",
        "model.layers.1.self_attn.o_proj": "int8",
        "model.layers.1.mlp.gate_proj+up_proj": "w8a8",
        "model.layers.1.mlp.down_proj": "w8a8",
    }
    assert np.isfinite(logits(path)).all()


def test_stacked_linears_of_two_types_stay_apart(exports, tmp_path):  # noqa: F811
    types = dict.fromkeys(TYPES, W8A8) | {"v_proj": INT8, "up_proj": INT8}
    source, masks = quantised_model(exports.model_dir("llama"), tmp_path / "source", types)
    plan = write_hybrid(
        exports.graph("llama"), source, masks, plan_of(masks), tmp_path / "hybrid.onnx", "float16"
    )
    assert all(len(one.node.linears) == 1 for one in plan.values() if one.node)


def test_tiles_of_other_kinds_are_refused_by_name(exports, tmp_path):  # noqa: F811
    """n:16 in a linear of w8a8, and 6:8 in linears of int8 and of 16 bits."""
    source, masks = quantised_model(exports.model_dir("llama"), tmp_path / "source", TYPES)
    for linear, kind in (("q_proj", KINDS[2]), ("o_proj", PRUNED["6:8"]), ("k_proj", PRUNED["6:8"])):
        name = f"model.layers.0.self_attn.{linear}"
        other = {name: mosaic(masks[name].shape, (64, 64), 1, (kind,))}
        given = MaskSet({**masks, **other}, **ABOUT, grids=masks.grids)
        with refused(PatchCompileError):
            write_hybrid(
                exports.graph("llama"), source, given, plan_of(given), tmp_path / "m.onnx", "float16"
            )


def test_a_k_beyond_int32_is_refused_by_name():
    with refused(PatchCompileError):
        check_grid(
            "model.layers.0.mlp.down_proj",
            Grid(W8A8, np.ones(4, np.float32)),
            (4, 131076),
            ir.DataType.FLOAT16,
        )
