"""Linears of int8 and int4 weights in a whole model, next to linears of 16 bits."""

import shutil

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from safetensors.numpy import load_file, save_file

from masklearn.masks.maskset import MaskSet
from masklearn.model.checkpoint import Checkpoint
from masklearn.model.coverage import covered_linears
from masklearn.model.prune import write_pruned_checkpoint
from masklearn.quant.grid import Grid
from masklearn.quant.table import INT4, INT8, W8A8
from patch_compile.errors import PatchCompileError
from patch_compile.inspection.binaries import inspect_engine_file
from patch_compile.inspection.onnx_graph import inspect_onnx
from patch_compile.onnx_io.runnable import runnable_onnx
from patch_compile.passes.lowering.pack_linears import PackLinearsPass
from patch_compile.passes.write import write_dense, write_hybrid
from patch_compile.planning.lowering import plan_linears
from tests.mosaics import random_grid, random_mask
from tests.onnx_export.conftest import exports  # noqa: F401  (the session's exported graphs)
from tests.onnx_export.tiny import LAYERS, OrtDecoder, tolerance
from tests.refusals import refused

IDS = np.arange(12)[None] % 100
# K of down_proj is 96, which int4 does not divide. Of q, k and v of a block two have one type.
TYPES = {
    "gate_proj": INT4,
    "up_proj": INT4,
    "down_proj": INT8,
    "q_proj": INT8,
    "v_proj": INT8,
    "o_proj": INT4,
}
ABOUT = {"method": "random", "seed": 0, "base_model": "tiny", "base_sha256": "", "ratio_asked": 0.3}


def quantised_model(source, folder, types=TYPES):
    """A copy of a checkpoint with weights on grids, and masks with these grids: a fourth of the linears has no 2:4 tile."""
    shutil.copytree(source, folder)
    weights, masks, grids = load_file(folder / "model.safetensors"), {}, {}
    for seed, (name, shape) in enumerate(covered_linears(source).linears.items()):
        masks[name] = random_mask(shape, (64, 64), 0.0 if seed % 4 == 3 else 1.0, seed)[0]
        if weights_type := types.get(name.rpartition(".")[2]):
            integers, grid = random_grid(shape, weights_type, seed)
            # As large as the model's own weights: integers of the two types spread to 128 and to 8.
            spread = weights[f"{name}.weight"].std() / (integers * 1.0).std() / 4
            sizes = np.abs(grid.scales)
            scales = np.copysign(np.exp2(np.rint(np.log2(sizes / sizes.mean() * spread))), grid.scales)
            grids[name] = Grid(weights_type, (scales * 1.25).astype(np.float32))
            weights[f"{name}.weight"] = grids[name].values(integers, np.dtype(np.float32))
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return Checkpoint.open(folder), MaskSet(masks, **ABOUT, grids=grids)


def plan_of(masks, lowering="plugin"):
    return plan_linears(masks, lowering, None, {name: grid.type for name, grid in masks.grids.items()})


def logits(path):
    return OrtDecoder(runnable_onnx(path, path.parent)).start(IDS, np.ones_like(IDS))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_three_types_give_their_values_logits(exports, dtype, tmp_path):  # noqa: F811
    source, masks = quantised_model(exports.model_dir("llama"), tmp_path / "source")
    write_pruned_checkpoint(source, masks, tmp_path / "model")
    write_dense(
        exports.graph("llama", dtype=dtype), Checkpoint.open(tmp_path / "model"), tmp_path / "d.onnx", dtype
    )
    path, dense = tmp_path / "hybrid.onnx", "*=plugin,o_proj=dense"
    plan = write_hybrid(
        exports.graph("llama", dtype=dtype), source, masks, plan_of(masks, dense), path, dtype
    )

    onnx.checker.check_model(str(path), full_check=True)
    nodes = {node.name: node for node in onnx.load(path, load_external_data=False).graph.node}
    written = {
        name.removeprefix("model.layers.1."): onnx.helper.get_node_attr_value(node, "weights").decode()
        for name, node in nodes.items()
        if node.op_type == "PatchLinear" and ".1." in name
    }
    assert written == {
        "self_attn.q_proj+v_proj": "int8",
        "self_attn.k_proj": dtype,
        "self_attn.o_proj": "int4",
        "mlp.gate_proj+up_proj": "int4",
        "mlp.down_proj": "int8",
    }
    # `dense` is asked for o_proj: its pruned weights are zeros of dense slabs.
    asked = plan["model.layers.1.self_attn.o_proj"]
    assert asked.slabs.by_kind == {"dense": 1, "2:4": 0} and asked.lowering == "plugin"
    assert masks["model.layers.1.self_attn.o_proj"].tiles.any()
    expected = logits(tmp_path / "d.onnx")
    roundoff = {"float16": 2.0**-11, "bfloat16": 2.0**-8}[dtype]
    np.testing.assert_allclose(logits(path), expected, atol=tolerance(expected, LAYERS, roundoff))
    assert np.abs(expected).max() > 0.1
    found = inspect_onnx(path)
    assert not found.faults
    assert {row["linear"]: row["weights"] for row in found.rows} == {
        name: onnx.helper.get_node_attr_value(node, "weights").decode()
        for name, node in nodes.items()
        if node.op_type == "PatchLinear"
    }


def test_a_weight_off_its_grid_stops_the_write(exports, tmp_path):  # noqa: F811
    """The file was changed after its masks were written. Nothing is left of the write."""
    _, masks = quantised_model(exports.model_dir("llama"), tmp_path / "source")
    file, name = tmp_path / "source/model.safetensors", "model.layers.1.mlp.down_proj"
    weights = load_file(file)
    row, column = np.argwhere(masks[name].keep() & (weights[f"{name}.weight"] != 0))[7]
    weights[f"{name}.weight"][row, column] *= 1.01
    save_file(weights, file, {"format": "pt"})
    out = tmp_path / "out"
    out.mkdir()
    with refused():
        write_hybrid(
            exports.graph("llama"),
            Checkpoint.open(file.parent),
            masks,
            plan_of(masks),
            out / "m.onnx",
            "float16",
        )
    assert not list(out.iterdir())


def test_scales_that_do_not_fit_are_refused(exports):  # noqa: F811
    shape, name = (64, 96), "model.layers.0.mlp.down_proj"

    def refused(grid, planned):
        mask = random_mask(shape, (64, 64), 1.0, 0)[0]
        plan = plan_linears({name: mask}, "plugin", None, {name: planned})
        from patch_compile.passes.lowering.gather_linears import GatherLinearsPass

        model = exports.graph("llama")
        GatherLinearsPass(plan, ir.DataType.FLOAT16)(model)
        packing = PackLinearsPass(plan, {name: mask}, lambda _: None, ir.DataType.FLOAT16, {name: grid})
        with pytest.raises((PatchCompileError, ir.passes.PreconditionError)) as caught:
            packing(model)
        return caught.value

    long = refused(Grid(INT4, np.ones((64, 2), np.float32)), INT4)
    assert name in long.what and "multiple of 64, it is 96" in long.why
    short = refused(Grid(INT8, np.ones(32, np.float32)), INT8)
    assert "scales [32], a weight [64, 96] needs [64]".lower() in short.why.lower()
    assert "is planned as int4" in str(refused(Grid(INT8, np.ones(64, np.float32)), INT4))


def test_scales_of_another_16_bit_type_are_refused(exports, tmp_path):  # noqa: F811
    """Scales of a bfloat16 checkpoint may be too large or too small for float16."""
    source, masks = quantised_model(exports.model_dir("llama"), tmp_path / "source")
    name = "model.layers.0.mlp.gate_proj"
    scales = masks.grids[name].scales.copy()
    scales[0, 0] = 2.0**-40
    masks.grids[name] = Grid(INT4, scales)
    with refused():
        write_hybrid(exports.graph("llama"), source, masks, plan_of(masks), tmp_path / "m.onnx", "float16")


def test_a_split_of_quantised_weights_is_refused(exports, tmp_path):  # noqa: F811
    source, masks = quantised_model(exports.model_dir("llama"), tmp_path / "source")
    plan = plan_of(masks)
    plan |= {name: one.changed(lowering="split") for name, one in plan.items() if name.endswith("q_proj")}
    with refused(ir.passes.PreconditionError):
        write_hybrid(exports.graph("llama"), source, masks, plan, tmp_path / "m.onnx", "float16")


@pytest.mark.rtx
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("types", [TYPES, dict.fromkeys((*TYPES, "k_proj"), W8A8)], ids=["three", "w8a8"])
def test_rtx_builds_engines_of_quantised_types(exports, types, dtype, tmp_path):  # noqa: F811
    """TensorRT-RTX takes words and scales as they are, and asks the plugin for the workspace of a rounded X."""
    from patch_compile.engine.build import build_engine
    from patch_compile.engine.expectation import expectation_from_onnx
    from patch_compile.engine.profiles import profiles_from_onnx
    from patch_compile.hardware.cards import parse_architectures
    from patch_compile.plugin.build import build_plugin

    source, masks = quantised_model(exports.model_dir("llama"), tmp_path / "source", types)
    path, engine = tmp_path / "hybrid.onnx", tmp_path / "model.engine"
    write_hybrid(exports.graph("llama", dtype=dtype), source, masks, plan_of(masks), path, dtype)
    expected = expectation_from_onnx(path)
    assert expected.dtype == dtype and len(expected.quantised) == 4 * LAYERS
    report = build_engine(
        path,
        engine,
        backend="tensorrt-rtx",
        targets=parse_architectures("sm86"),
        profiles=profiles_from_onnx(path),
        plugin=build_plugin("tensorrt-rtx").path,
        expected=expected,
    )
    assert report.packed_bytes == expected.packed_bytes
    found = inspect_engine_file(engine)
    assert {row["layer"]: row["packed bytes"] for row in found.rows} == dict(expected.patch_linears)
