"""Operations that fuse into a linear's node: bias, activation, the product of gate and up, and a residual."""

import re

import pytest

from patch_compile.packing.fusion import FUSIONS
from tests.passes.fusion.fusing import (
    A_BIAS,
    C_BIAS,
    EPILOGUES,
    SILU,
    A,
    C,
    check_fused,
    model_with,
    refusals,
)

GEMM = "h = Gemm <transB = 1> (x, a_weight, a_bias)"


@pytest.mark.parametrize(
    "body",
    [
        f"{A_BIAS} y = Neg (h)",
        f"{A_BIAS.replace('(p, a_bias)', '(a_bias, p)')} y = Neg (h)",
        f"{GEMM} y = Neg (h)",
    ],
)
def test_the_bias_goes_into_the_node(body):
    check_fused(body, {"a": "bias"})
    check_fused(body, {"a": ""}, fuse=())
    check_fused(f"{A} y = Neg (h)", {"a": ""})


@pytest.mark.parametrize("body", [A_BIAS, GEMM])
def test_an_outer_bias_ends_the_epilogue(body):
    others = [fusion for fusion in FUSIONS if fusion != "bias"]
    check_fused(f"{body} y = Gelu (h)", {"a": ""}, fuse=others)
    check_fused(f"{body} y = Gelu (h)", {"a": "bias_gelu"}, fuse=FUSIONS)


def test_a_pair_set_apart_keeps_two_nodes(caplog):
    model = model_with(f"{A} {C} {SILU} y = Mul (g, u)")
    told = refusals(caplog, model, {"a": "silu", "c": ""}, apart=True)
    assert "a is not fused with an up: a node each is predicted to be faster" in told


def test_products_read_without_bias_keep_it(caplog):
    model = model_with(f"{A_BIAS} y = Neg (h) z = Neg (p)", ("y", "z"))
    assert "a is not fused with the bias a.bias: Neg" in refusals(caplog, model, {"a": ""})


@pytest.mark.parametrize(
    ("body", "overload"),
    [
        (f"{A} s = Sigmoid (h) y = Mul (h, s)", "silu"),
        (f"{A} s = Sigmoid (h) y = Mul (s, h)", "silu"),
        (f"{A_BIAS} y = Gelu (h)", "bias_gelu"),
        (f'{A} y = Gelu <approximate = "tanh"> (h)', "gelu_tanh"),
        # An activation may have other readers or be an output, since it is the node's output.
        (f"{A} g = Gelu (h) n = Neg (g) y = Mul (g, n)", "gelu"),
    ],
)
def test_the_activation_goes_into_the_node(body, overload):
    check_fused(body, {"a": overload})
    without = [fusion for fusion in EPILOGUES if fusion != "activation"]
    check_fused(body, {"a": "bias" if "bias" in overload else ""}, fuse=without)


@pytest.mark.parametrize(
    ("body", "overload", "bias"),
    [
        (f"{A} {C} {SILU} y = Mul (g, u)", "gated_silu", ""),
        (f"{C} {A} {SILU} y = Mul (u, g)", "gated_silu", ""),
        (f"{A_BIAS} {C_BIAS} g = Gelu (h) y = Mul (g, u)", "bias_gated_gelu", "bias"),
    ],
)
def test_gate_and_up_share_a_node(body, overload, bias):
    check_fused(body, {"a+c": overload})
    check_fused(body, {"a+c": overload}, fuse=["bias", "gated"])
    check_fused(body, {"a+c": overload}, fuse=FUSIONS)
    check_fused(body, {"a": bias, "c": bias}, fuse=["bias"])
    activation = overload.removeprefix("bias_").removeprefix("gated_")
    apart = ["bias", "activation", "residual", "qkv"]
    check_fused(body, {"a": f"{bias}_{activation}".strip("_"), "c": bias}, fuse=apart)


def test_an_up_that_stays_dense_leaves_the_activation(caplog):
    model = model_with(f"{A} {C} {SILU} y = Mul (g, u)")
    said = refusals(caplog, model, {"a": "silu"}, dense=("c",))
    assert "a is not fused with an up: the other factor is no linear that is packed" in said


@pytest.mark.parametrize(
    ("body", "nodes"),
    [
        (f"{A} y = Add (h, r)", {"a": "residual"}),
        (f"{A_BIAS} y = Add (r, h)", {"a": "bias_residual"}),
        (f"{A_BIAS} v = Gelu (h) y = Add (r, v)", {"a": "bias_gelu_residual"}),
        # One of two added linears becomes a node with the other's output as its residual.
        (f"{A} {C} y = Add (h, u)", {"a": "residual", "c": ""}),
        # The residual may be replaced itself, before or after.
        (f"{A} g = Gelu (h) {C.replace('(x', '(g')} y = Add (x, u)", {"a": "gelu", "c": "residual"}),
        (f"{A} {C.replace('(x', '(r')} v = Gelu (u) y = Add (h, v)", {"a": "residual", "c": "gelu"}),
        (f"{A} y = Neg (h)", {"a": ""}),
    ],
)  # fmt: skip
def test_the_residual_goes_into_the_node(body, nodes):
    check_fused(body, nodes)
    outside = {name: overload.removesuffix("residual").strip("_") for name, overload in nodes.items()}
    check_fused(body, outside, fuse=[fusion for fusion in EPILOGUES if fusion != "residual"])


@pytest.mark.parametrize(
    ("body", "results", "nodes", "reason"),
    [
        (f"{A} y = Gelu (h) z = Neg (h)", "yz", {"a": ""}, "GELU: Neg '.*' reads a value in between too"),
        (f"{A} {SILU} y = Neg (g) z = Neg (s)", "yz", {"a": ""}, "SiLU: Neg '.*' reads a value in between too"),
        (f"{A} y = Gelu (h)", "yh", {"a": ""}, "GELU: a value in between is an output of the graph"),
        (f"{A} k = Cast <to = 1> (h) f = Gelu (k) y = Cast <to = 10> (f)", "y", {"a": ""}, "Cast is not an epilogue"),
        # quick_gelu of transformers: h · sigmoid(1.702 h)
        (f"{A} t = Mul (h, one_row) s = Sigmoid (t) y = Mul (h, s)", "y", {"a": ""}, "Mul, Mul is not an epilogue"),
        (f"{A} s = Sigmoid (h) y = Mul (r, s)", "y", {"a": ""}, "Sigmoid is not an epilogue"),
        (f"{A} {C} {SILU} y = Mul (g, u) z = Neg (u)", "yz", {"a": "silu", "c": ""}, "an up: Neg '.*' reads"),
        (f"{A} {C} {SILU} y = Mul (g, u) z = Neg (g)", "yz", {"a": "silu", "c": ""}, "an up: Neg '.*' reads"),
        (f"{A} {C} {SILU} y = Mul (g, u)", "yu", {"a": "silu", "c": ""}, "an up: a value in between is an output"),
        (f"{A} {C.replace('(x', '(x2')} {SILU} y = Mul (g, u)", "y", {"a": "silu", "c": ""}, "c reads another X"),
        (f"{A_BIAS} {C} {SILU} y = Mul (g, u)", "y", {"a": "bias_silu", "c": ""}, "only one of it and c has a bias"),
        (f"{A} wd = Transpose <perm = [1, 0]> (d_weight) u = MatMul (x, wd) {SILU} y = Mul (g, u)", "y",
         {"a": "silu", "d": ""}, r"it is \(8, 8\) and d \(1, 8\)"),
        (f"{A} {SILU} y = Mul (g, r)", "y", {"a": "silu"}, "the other factor is no linear that is packed"),
        (f"{A} {SILU} y = Mul (g, g)", "y", {"a": "silu"}, "the other factor is no linear that is packed"),
        (f"{A} {C} t = Mul (h, u) y = Gelu (t)", "y", {"a": "", "c": ""}, "Mul is not an epilogue"),
        (f"{A} y = Add (h, r)", "yh", {"a": ""}, "residual of '.*': a value in between is an output"),
        (f"{A} y = Add (h, r) z = Neg (h)", "yz", {"a": ""}, "residual of '.*': Neg '.*' reads"),
        (f"{A} g = Gelu (h) y = Add (g, r)", "yg", {"a": "gelu"}, "a value in between is an output"),
        (f"{A} k = Cast <to = 1> (h) o = Cast <to = 10> (k) y = Add (o, r)", "y", {"a": ""}, "Cast is not an epilogue"),
        (f"{A} y = Add (h, one_row)", "y", {"a": ""}, r"the addend is \[1,8\], not known to be \[b,8\]"),
        (f"{A} y = Add (h, other)", "y", {"a": ""}, r"the addend is \[n,8\], not known to be \[b,8\]"),
        (f"{A} y = Add (h, position)", "y", {"a": ""}, "the addend is a constant"),
        (f"{A} y = Add (h, h)", "y", {"a": ""}, "it adds the linear to itself"),
        # another linear has taken the Add
        (f"{A} {C} y = Add (h, u)", "y", {"a": "residual", "c": ""}, "c .*: Linear is not an epilogue"),
    ],
)  # fmt: skip
def test_what_is_refused_and_why(body, results, nodes, reason, caplog):
    assert re.search(reason, refusals(caplog, model_with(body, tuple(results)), nodes))
