import logging
import re
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from patch_compile.onnx_export import export_model
from patch_compile.onnx_export.names import scope_of
from patch_compile.onnx_export.repeat import (
    LayerNames,
    NotRepeatableError,
    PairedSizes,
    moved_shape,
    repeat_last_block,
)
from patch_compile.passes import cleanup_passes, run_passes
from tests.families import write_family
from tests.onnx_export.tiny import Exports, save_tiny
from tests.refusals import refused

LAYERS_OF = LayerNames("model.layers")


def described(model: ir.Model) -> list[str]:
    """Describe the graph except for the source of the batch size, which torch reads from the last cache input."""
    cleaned = run_passes(model, cleanup_passes())
    interface = [str(v) for v in (*cleaned.graph.inputs, *cleaned.graph.outputs)]
    weights = sorted(f"{v.name} {v.dtype} {v.shape}" for v in cleaned.graph.initializers.values())
    nodes = [f"{node.name}: {node}" for node in cleaned.graph if node.op_type not in ("Shape", "Squeeze")]
    return [*interface, *weights, *nodes]


def test_repeating_gives_the_graph_that_tracing_gives(exports: Exports) -> None:
    assert described(exports.raw("llama-of-four")) == described(traced(exports))


@pytest.mark.families
def test_experts_are_repeated_as_they_are_traced(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The number of each expert's tokens has a name of its own in every layer."""
    path = write_family(tmp_path / "model", "mixtral", num_hidden_layers=5, num_local_experts=2)
    repeated, whole = export_model(path, dtype="float16"), traced_whole(path)
    assert "tracing all" not in caplog.text
    assert numbered(described(repeated)) == numbered(described(whole))


def numbered(lines: list[str]) -> list[str]:
    """Number the sizes that are known only in a run, in the order in which they occur."""
    numbers: dict[str, str] = {}
    return [
        re.sub(r"\bu\d+(_\d+)?\b", lambda found: numbers.setdefault(found[0], f"n{len(numbers)}"), line)
        for line in lines
    ]


def test_block_sizes_are_paired_uniquely() -> None:
    sizes = PairedSizes()
    assert sizes.pair(ir.Shape(["u0", 64]), ir.Shape(["u8", 64]))
    assert sizes.pair(ir.Shape(["2*u0 + u1"]), ir.Shape(["2*u8 + u9"]))
    assert not sizes.pair(ir.Shape(["u0"]), ir.Shape(["u9"]))
    assert not sizes.pair(ir.Shape(["u2"]), ir.Shape(["u8"]))
    assert not sizes.pair(ir.Shape(["u0", "batch"]), ir.Shape(["u8", "sequence"]))
    assert not sizes.pair(ir.Shape(["u0"]), None) and sizes.pair(None, None)
    once = moved_shape(ir.Shape(["2*u12", "batch", 3]), 4)
    assert once == ir.Shape(["2*u12_4", "batch", 3]) and moved_shape(once, 5) == ir.Shape(
        ["2*u12_5", "batch", 3]
    )


def traced(exports: Exports) -> ir.Model:
    """A graph of four layers, all of them traced."""
    return traced_whole(exports.model_dir("llama-of-four")).clone()


@cache
def traced_whole(path: Path) -> ir.Model:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("patch_compile.onnx_export.model._trace_repeated", lambda *_: None)
        return export_model(path, dtype="float16")


def last_layer(model: ir.Model, op_type: str) -> ir.Node:
    return next(n for n in model.graph if n.op_type == op_type and LAYERS_OF.layer_of(scope_of(n)) == 3)


def test_a_dimension_without_a_name_keeps_none() -> None:
    moved = moved_shape(ir.Shape(["u1", None]), 4)
    assert moved is not None and [str(moved[0]), moved.is_unknown_dim(1)] == ["u1_4", True]


def add_numbers_to_layers(model: ir.Model, numbers: Sequence[float]) -> None:
    """Layer i adds numbers[i], a tensor that torch.export would name after the module (Falcon's indices)."""
    for layer, number in enumerate(numbers):
        name = f"model.layers.{layer}.self_attn.lifted_tensor_{layer}"
        held = ir.Value(name=name, const_value=ir.tensor(np.array([number], np.float16), name=name))
        model.graph.initializers[name] = held
        attention = next(
            n for n in model.graph if n.op_type == "Attention" and LAYERS_OF.layer_of(scope_of(n)) == layer
        )
        scope, query = dict(attention.metadata_props), attention.inputs[0]
        add = ir.node("Add", [query, held], name=f"add_{layer}", metadata_props=scope)
        model.graph.insert_before(attention, add)
        attention.replace_input_with(0, add.outputs[0])


def other_attribute(model: ir.Model) -> None:
    last_layer(model, "Attention").attributes["scale"] = ir.AttrFloat32("scale", 0.5)


def other_input(model: ir.Model) -> None:
    attention = last_layer(model, "Attention")
    attention.replace_input_with(1, attention.inputs[2])


def skip_to_an_older_layer(model: ir.Model) -> None:
    last, older = (
        [node for node in model.graph if node.op_type == "Add" and scope_of(node) == f"model.layers.{layer}"]
        for layer in (3, 1)
    )
    last[0].replace_input_with(0, older[-1].outputs[0])


def one_more_node(model: ir.Model) -> None:
    add = last_layer(model, "Add")
    extra = ir.node("Neg", [add.outputs[0]], name="extra", metadata_props=dict(add.metadata_props))
    model.graph.insert_after(add, extra)


def other_number(model: ir.Model) -> None:
    add_numbers_to_layers(model, [1.0, 1.0, 1.0, 2.0])


@pytest.mark.parametrize(
    "change", [other_attribute, other_input, skip_to_an_older_layer, one_more_node, other_number]
)
def test_a_difference_is_found(exports: Exports, change: Callable[[ir.Model], None]) -> None:
    model = traced(exports)
    change(model)
    with refused(NotRepeatableError):
        repeat_last_block(model, 4, 8)


def test_repeated_layers_share_equal_numbers(exports: Exports) -> None:
    model = traced(exports)
    add_numbers_to_layers(model, [2.0, 1.0, 1.0, 1.0])
    repeat_last_block(model, 4, 6)
    held = [n.inputs[1] for n in model.graph if n.op_type == "Add" and n.name.startswith("add_")]
    assert [v.const_value.numpy().item() for v in held] == [2, 1, 1, 1, 1, 1]
    assert held[5] is held[4] is held[3]


def test_layer_periods_repeat_as_a_block(tmp_path: Path) -> None:
    """Layers form four periods of two kinds, and one more layer that makes no whole period."""
    kinds = ["sliding_attention", "full_attention"] * 4 + ["sliding_attention"]
    settings = {"num_hidden_layers": len(kinds), "layer_types": kinds, "max_window_layers": 0}
    model_dir = save_tiny("qwen2-mixed", tmp_path, **settings)
    repeated, whole = export_model(model_dir, dtype="float16"), traced_whole(model_dir)
    windows = [node.inputs[3] for node in repeated.graph if node.op_type == "Attention"]
    assert [window is windows[0] for window in windows] == [kind == kinds[0] for kind in kinds]
    assert described(repeated) == described(whole)


@pytest.mark.parametrize("seen", [True, False], ids=["seen in the modules", "found in the trace"])
def test_layers_that_differ_are_traced_whole(
    seen: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """GPT-2 can scale each layer's attention by the layer's number."""
    model_dir = save_tiny("gpt2", tmp_path, num_hidden_layers=4, scale_attn_by_inverse_layer_idx=True)
    if not seen:
        monkeypatch.setattr(
            "patch_compile.onnx_export.repeat.repetition", lambda config, architecture: (0, 1)
        )
    with caplog.at_level(logging.WARNING):
        model = export_model(model_dir, dtype="float16")
    assert ("tracing all 4 layers" in caplog.text) is not seen
    scales = [n.attributes["scale"].as_float() for n in model.graph if n.op_type == "Attention"]
    np.testing.assert_allclose(scales, [0.25 / (i + 1) for i in range(4)], rtol=1e-6)


def test_scopes_are_read_from_the_last_module(exports: Exports) -> None:
    model = traced(exports)
    gate = next(n for n in model.graph if n.name == "model.layers.1.mlp.gate_proj/MatMul_0")
    assert scope_of(gate) == "model.layers.1.mlp.gate_proj"
    assert LAYERS_OF.layer_of("model.layers.12.mlp") == 12
    assert LAYERS_OF.layer_of("model.layers_extra.1") is LAYERS_OF.layer_of("model.norm") is None
