import logging

import numpy as np
import onnx_ir as ir
import pytest

from patch_compile.passes.find_linears import find_linears
from tests.graphs import graph_of


def model_with(body: str, *, outputs: str = "float16[b, 6] y") -> ir.Model:
    """A graph with input x [b, 4], weights a.weight and c.weight [6, 4] and bias [6], all without data."""
    text = f"agraph (float16[b, 4] x, float16[6, 4] a, float16[6, 4] c, float16[6] bias) => ({outputs}) {{ {body} }}"
    model = graph_of(text)
    for name in ("a", "c", "bias"):
        value = next(v for v in model.graph.inputs if v.name == name)
        model.graph.inputs.remove(value)
        value.name = "a.bias" if name == "bias" else f"{name}.weight"
        model.graph.initializers[value.name] = value
    return model


def test_matmul_with_a_transposed_weight() -> None:
    model = model_with("w = Transpose <perm = [1, 0]> (a) y = MatMul (x, w)")
    (site,) = find_linears(model).values()
    assert (site.name, site.shape, site.bias, site.shared) == ("a", (6, 4), None, False)
    assert [node.op_type for node in site.nodes] == ["Transpose", "MatMul"]
    assert site.x.name == "x" and site.weight.name == "a.weight" and site.output.name == "y"


@pytest.mark.parametrize("add", ["Add (p, bias)", "Add (bias, p)"])
def test_the_bias_that_follows(add: str) -> None:
    site = find_linears(model_with(f"w = Transpose <perm = [1, 0]> (a) p = MatMul (x, w) y = {add}"))["a"]
    assert site.bias is not None and site.bias.name == "a.bias"
    assert [node.op_type for node in site.nodes] == ["Transpose", "MatMul", "Add"]
    assert site.output.name == "y"


def test_a_product_that_others_read_keeps_its_bias_outside() -> None:
    body = "w = Transpose <perm = [1, 0]> (a) p = MatMul (x, w) y = Add (p, bias) z = Neg (p)"
    site = find_linears(model_with(body, outputs="float16[b, 6] y, float16[b, 6] z"))["a"]
    assert site.bias is None and site.output.name == "p"


def test_a_residual_is_no_bias() -> None:
    body = "w = Transpose <perm = [1, 0]> (a) p = MatMul (x, w) n = Neg (p) y = Add (n, bias)"
    site = find_linears(model_with(body))["a"]
    assert site.bias is None and site.output.name == "p"


def test_gemm() -> None:
    site = find_linears(model_with("y = Gemm <transB = 1> (x, a, bias)"))["a"]
    assert site.bias is not None and site.bias.name == "a.bias" and len(site.nodes) == 1


@pytest.mark.parametrize(
    "body",
    [
        "y = Gemm <transB = 1, alpha = 0.5> (x, a, bias)",
        "y = Gemm <transB = 1, beta = 2.0> (x, a, bias)",
        "w = Transpose <perm = [0, 1]> (a) y = MatMul (x, w)",
        "w = Transpose <perm = [1, 0]> (a) n = Neg (w) y = MatMul (x, n)",
    ],
)
def test_what_is_not_a_linear(body: str) -> None:
    assert find_linears(model_with(body)) == {}


def test_a_weight_with_other_readers_is_shared() -> None:
    body = "w = Transpose <perm = [1, 0]> (a) y = MatMul (x, w) z = Gather (a, i)"
    model = model_with(body.replace("Gather (a, i)", "Neg (a)"), outputs="float16[b, 6] y, float16[6, 4] z")
    assert find_linears(model)["a"].shared


def test_a_transpose_with_other_readers_is_not_of_the_linear() -> None:
    body = "w = Transpose <perm = [1, 0]> (a) y = MatMul (x, w) z = Neg (w)"
    site = find_linears(model_with(body, outputs="float16[b, 6] y, float16[4, 6] z"))["a"]
    assert [node.op_type for node in site.nodes] == ["MatMul"]
    assert site.shared


def test_a_weight_multiplied_twice_is_left_out_and_said_so(caplog: pytest.LogCaptureFixture) -> None:
    body = """v = Transpose <perm = [1, 0]> (a) w = Transpose <perm = [1, 0]> (a) u = Transpose <perm = [1, 0]> (c)
        y = MatMul (x, v) z = MatMul (x, w) t = MatMul (x, u)"""
    model = model_with(body, outputs="float16[b, 6] y, float16[b, 6] z, float16[b, 6] t")
    with caplog.at_level(logging.WARNING):
        assert list(find_linears(model)) == ["c"]
    assert "a.weight is multiplied at two places" in caplog.text


def test_a_weight_with_data_is_found_too() -> None:
    model = model_with("w = Transpose <perm = [1, 0]> (a) y = MatMul (x, w)")
    model.graph.initializers["a.weight"].const_value = ir.tensor(np.zeros((6, 4), np.float16))
    assert list(find_linears(model)) == ["a"]
