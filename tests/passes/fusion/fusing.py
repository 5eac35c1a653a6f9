"""Small graphs for each fusion, with linears a and c of one shape and d of another."""

import logging
from collections.abc import Collection

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from patch_compile.packing.fusion import FUSIONS
from patch_compile.passes import lowering_passes, run_passes
from patch_compile.passes.find_linears import lowerable_linears
from patch_compile.planning.lowering import LinearPlan, plan_linears
from tests.graphs import graph_of, outputs
from tests.mosaics import masked_by_hand, random_mask

SIZE = 8
HALF = ir.DataType.FLOAT16
SHAPES = {"a.weight": [SIZE, SIZE], "c.weight": [SIZE, SIZE], "d.weight": [1, SIZE], "a.bias": [SIZE],
          "c.bias": [SIZE], "position": [1, SIZE]}  # fmt: skip
INPUTS = {"x": ["b", SIZE], "x2": ["b", SIZE], "r": ["b", SIZE], "one_row": [1, SIZE], "other": ["n", SIZE]}
A = "wa = Transpose <perm = [1, 0]> (a_weight) h = MatMul (x, wa)"
A_BIAS = "wa = Transpose <perm = [1, 0]> (a_weight) p = MatMul (x, wa) h = Add (p, a_bias)"
C = "wc = Transpose <perm = [1, 0]> (c_weight) u = MatMul (x, wc)"
C_BIAS = "wc = Transpose <perm = [1, 0]> (c_weight) q = MatMul (x, wc) u = Add (q, c_bias)"
SILU = "s = Sigmoid (h) g = Mul (h, s)"
EPILOGUES = tuple(fusion for fusion in FUSIONS if fusion != "qkv")


def values() -> dict[str, np.ndarray]:
    """Pruned weights, biases and inputs."""
    rng = np.random.default_rng(5)
    made = {name: rng.standard_normal(shape).astype(np.float16) for name, shape in SHAPES.items()}
    for name, (mask, pattern) in masks().items():
        made[f"{name}.weight"] = masked_by_hand(made[f"{name}.weight"], mask, pattern)
    for name, (rows, columns) in INPUTS.items():
        made[name] = rng.standard_normal((3 if isinstance(rows, str) else rows, columns)).astype(np.float16)
    return made


def masks(dense: tuple[str, ...] = ()):
    return {
        name: random_mask(tuple(SHAPES[f"{name}.weight"]), (64, 64), float(name not in dense), seed)
        for seed, name in enumerate("acd")
    }


def model_with(body: str, results: tuple[str, ...] = ("y",)) -> ir.Model:
    """A graph with fp16 inputs [b, 8], and weights and biases as initializers."""
    given = {name.replace(".", "_"): shape for name, shape in (SHAPES | INPUTS).items()}
    declared = ", ".join(f"float16[{','.join(map(str, shape))}] {name}" for name, shape in given.items())
    promised = ", ".join(f"float16[b, {SIZE}] {name}" for name in results)
    model = graph_of(f"agraph ({declared}) => ({promised}) {{ {body} }}")
    data = values()
    for value in list(model.graph.inputs):
        if value.name not in INPUTS:
            model.graph.inputs.remove(value)
            value.name = str(value.name).replace("_", ".")
            value.const_value = ir.tensor(data[value.name], name=value.name)
            model.graph.initializers[value.name] = value
        elif not value.uses():
            model.graph.inputs.remove(value)
    for node in model.graph:
        (made,) = node.outputs
        kind = ir.DataType(node.attributes["to"].as_int()) if node.op_type == "Cast" else node.inputs[0].dtype
        assert kind is not None
        made.type = made.type or ir.TensorType(kind)
        if node.op_type != "Transpose":
            made.shape = made.shape or ir.Shape(["b", SIZE])
    return model


def plan_of(model: ir.Model, dense: tuple[str, ...] = ()) -> dict[str, LinearPlan]:
    """The plan of the graph's linears; linears in `dense` have no 2:4 tile."""
    return plan_linears({n: mask for n, (mask, _) in masks(dense).items() if n in lowerable_linears(model)})


def packed(
    model: ir.Model,
    dense: tuple[str, ...] = (),
    fuse: Collection[str] = EPILOGUES,
    apart: bool = False,
) -> dict[str, str]:
    """Pack the linears in place; returns the overload of each PatchLinear by its name. apart: set in every plan."""
    found = {name: mask for name, (mask, _) in masks(dense).items() if name in lowerable_linears(model)}
    plan = {name: one.changed(apart=apart) for name, one in plan_linears(found).items()}
    run_passes(model, lowering_passes(plan, found, values().__getitem__, HALF, fuse=fuse).in_order)
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    return {str(node.name): node.overload for node in model.graph if node.op_type == "PatchLinear"}


def check_same(model: ir.Model, before: ir.Model) -> None:
    """Check that a model's outputs are unchanged up to rounding."""
    feed = {str(value.name): values()[str(value.name)] for value in before.graph.inputs}
    for now, then in zip(outputs(model, **feed), outputs(before, **feed), strict=True):
        then = then.astype(np.float32)
        np.testing.assert_allclose(
            now.astype(np.float32), then, rtol=2.0**-8, atol=2.0**-8 * np.abs(then).max()
        )


def check_fused(body: str, nodes: dict[str, str], fuse: Collection[str] = EPILOGUES) -> None:
    """Check that a graph packs into these nodes and computes the same."""
    model = model_with(body)
    assert packed(model, fuse=fuse) == nodes
    check_same(model, model_with(body))


def refusals(caplog: pytest.LogCaptureFixture, model: ir.Model, nodes: dict[str, str], **options) -> str:
    """Log of packing a graph into these nodes, with the reasons why linears are not fused."""
    before = model.clone()
    with caplog.at_level(logging.DEBUG, "patch_compile.passes.linear_node"):
        assert packed(model, **options) == nodes
    if not options.get("dense"):
        check_same(model, before)
    return caplog.text
