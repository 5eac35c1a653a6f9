"""Linears that passes lower, in graphs that other programs exported, and the scopes that name them."""

import onnx_ir as ir
import pytest
from onnx import helper

from patch_compile.onnx_io.read import read_onnx
from patch_compile.onnx_io.tensor_names import torch_scopes
from patch_compile.passes.find_linears import linears_of_file, lowerable_linears
from tests.graphs import graph_of
from tests.sources.onnx_model import graphs

N, K = 32, 64


def exported_graph(body: str, outputs: str) -> ir.Model:
    """A graph with input x [b, 4], weights a.weight and c.weight [6, 4] and bias [6], all without data."""
    text = f"agraph (float16[b, 4] x, float16[6, 4] a, float16[6, 4] c, float16[6] bias) => ({outputs}) {{ {body} }}"
    model = graph_of(text)
    for name in ("a", "c", "bias"):
        value = next(v for v in model.graph.inputs if v.name == name)
        model.graph.inputs.remove(value)
        value.name = "a.bias" if name == "bias" else f"{name}.weight"
        model.graph.initializers[value.name] = value
    return model


FLIP = "w = Transpose <perm = [1, 0]> (a)"


@pytest.mark.parametrize(
    ("body", "z"),
    [
        ("w = Transpose <perm = [0, 1]> (a) y = MatMul (x, w)", ""),
        ("w = Transpose <perm = [1, 0]> (a) n = Neg (w) y = MatMul (x, n)", ""),
        (f"{FLIP} y = MatMul (x, w) z = Neg (a)", "[6, 4]"),
        (f"{FLIP} y = MatMul (x, w) z = Neg (w)", "[4, 6]"),
        (f"{FLIP} v = Transpose <perm = [1, 0]> (a) y = MatMul (x, v) z = MatMul (x, w)", "[b, 6]"),
    ],
)
def test_a_weight_of_several_readers_is_not_lowerable(body, z):
    outputs = "float16[b, 6] y" + (f", float16{z} z" if z else "")
    assert not lowerable_linears(exported_graph(body, outputs))


def test_lowerable_linears_have_the_names_of_their_weights(tmp_path):
    """The name of a node that comes first does not take it."""
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"], "/fc/MatMul"),
        helper.make_node("Transpose", ["fc.weight"], ["flipped"], "flip"),
        helper.make_node("MatMul", ["h", "flipped"], ["y"], "product"),
    ]
    weights = [graphs.tensor("w", K, K), graphs.tensor("fc.weight", N, K)]
    model = read_onnx(graphs.save(tmp_path / "m.onnx", nodes, weights))
    assert list(linears_of_file(tmp_path / "m.onnx", model).linears) == ["fc", "fc_2"]
    assert [linear.product.name for linear in lowerable_linears(model).values()] == ["product"]
    assert list(lowerable_linears(model)) == ["fc"]


@pytest.mark.parametrize(
    ("text", "scopes"),
    [
        (None, []),
        ("['', 'layers.1', 'linear_7']", ["", "layers.1", "linear_7"]),
        *((text, []) for text in ("layers.1", "layers.1/", "{[]: 1}", "7", "(" * 5000)),
    ],
)
def test_only_lists_are_scopes(text, scopes):
    node = ir.node("MatMul", [])
    if text is not None:
        node.metadata_props["pkg.torch.onnx.name_scopes"] = text
    assert torch_scopes(node) == scopes
