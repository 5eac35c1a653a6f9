from dataclasses import replace

import onnx_ir as ir
import pytest

from masklearn.masks.maskset import MaskSet
from masklearn.model.checkpoint import Checkpoint
from masklearn.model.coverage import covered_linears
from patch_compile.errors import InvariantError
from patch_compile.passes import lowering_passes, run_passes
from patch_compile.passes.lowering.gather_linears import GatherLinearsPass
from patch_compile.passes.write import write_hybrid
from patch_compile.planning.lowering import plan_linears
from tests.mosaics import random_mask
from tests.onnx_export.conftest import exports  # noqa: F401  (the session's exported graphs)
from tests.refusals import refused


def masks_for(model_dir, share=0.5):
    linears = covered_linears(model_dir).linears
    masks = {
        name: random_mask(shape, (64, 64), share, seed)[0]
        for seed, (name, shape) in enumerate(linears.items())
    }
    return MaskSet(masks, method="random", seed=0, base_model="tiny", base_sha256="", ratio_asked=share / 2)


def test_linears_missing_from_the_graph_are_refused(exports):  # noqa: F811
    plan = {
        "model.layers.9.mlp.up_proj": plan_linears({"x": random_mask((64, 64), (64, 64), 1.0, 0)[0]})["x"]
    }
    with refused(ir.passes.PreconditionError):
        GatherLinearsPass(plan, ir.DataType.FLOAT16)(exports.graph("llama"))


def test_another_shape_or_type_is_refused(exports):  # noqa: F811
    name = "model.layers.0.mlp.up_proj"
    masks = {name: random_mask((64, 64), (64, 64), 1.0, 0)[0]}
    for dtype in (ir.DataType.FLOAT16, ir.DataType.BFLOAT16):
        with refused(ir.passes.PreconditionError):
            GatherLinearsPass(plan_linears(masks), dtype)(exports.graph("llama"))


def test_a_weight_that_packs_wrongly_stops_the_write(exports, tmp_path, monkeypatch):  # noqa: F811
    """The check reads the written bytes, so a fault in the packing can't escape it."""
    from patch_compile.passes.lowering import packed_initializers

    def faulty(linears, panel_rows, panels, pack=packed_initializers.pack_together):
        packed = pack(linears, panel_rows, panels)
        packed.sparse[-1, -1] ^= 1
        return packed

    monkeypatch.setattr(packed_initializers, "pack_together", faulty)
    source = Checkpoint.open(exports.model_dir("llama"))
    masks = masks_for(source.path, 1.0)
    with refused(InvariantError):
        write_hybrid(
            exports.graph("llama"), source, masks, plan_linears(masks), tmp_path / "m.onnx", "float16"
        )
    assert not list(tmp_path.iterdir())


def test_misassigned_linears_are_found(exports):  # noqa: F811
    masks = masks_for(exports.model_dir("llama"), 1.0)
    graph = exports.graph("llama")
    lowering = lowering_passes(plan_linears(masks), masks, lambda name: None, ir.DataType.FLOAT16)
    run_passes(graph, lowering.in_order)
    packing = lowering.packing
    node = next(node for node in graph.graph if node.name == "model.layers.0.mlp.gate_proj+up_proj")
    twin = ir.Node(node.domain, node.op_type, node.inputs, overload=node.overload, name=node.name)
    graph.graph.insert_after(node, twin)
    with refused(ir.passes.PostconditionError):
        packing.ensures(graph)
    graph.graph.remove(twin)
    packing.ensures(graph)
    node.name = "model.layers.0.mlp.gate_proj"
    with refused(ir.passes.PostconditionError):
        packing.ensures(graph)


def test_what_was_not_gathered_is_not_packed(exports):  # noqa: F811
    masks = masks_for(exports.model_dir("llama"), 1.0)
    packing = lowering_passes(plan_linears(masks), masks, lambda name: None, ir.DataType.FLOAT16).packing
    with refused(ir.passes.PreconditionError):
        packing(exports.graph("llama"))


@pytest.mark.parametrize("fusion", ["qkv", "gated"])
def test_linears_that_pack_wrongly_together_stop_the_write(exports, tmp_path, monkeypatch, fusion):  # noqa: F811
    from patch_compile.passes.lowering import packed_initializers

    def swapped(linears, panel_rows, places, pack=packed_initializers.pack_together):
        if len(places) > 1:
            first, second, *others = places
            panels = first.panels.copy(), second.panels.copy()
            panels[0][0], panels[1][0] = second.panels[0], first.panels[0]
            halves = (second.half, first.half)
            pair = [replace(first, panels=own, half=half) for own, half in zip(panels, halves, strict=True)]
            places = [*pair, *others]
        return pack(linears, panel_rows, places)

    monkeypatch.setattr(packed_initializers, "pack_together", swapped)
    source = Checkpoint.open(exports.model_dir("llama"))
    masks = masks_for(source.path, 1.0)
    plan, out = plan_linears(masks), tmp_path / "m.onnx"
    with refused(InvariantError):
        write_hybrid(exports.graph("llama"), source, masks, plan, out, "float16", fuse=[fusion])
    assert not list(tmp_path.iterdir())
