import re

import pytest

from patch_compile.packing.fusion import FUSIONS
from tests.passes.fusion.fusing import A_BIAS, C_BIAS, SILU, A, C, check_fused, model_with, refusals


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


@pytest.mark.parametrize(
    ("body", "results", "nodes", "reason"),
    [
        (f"{A} {C} {SILU} y = Mul (g, u) z = Neg (u)", "yz", {"a": "silu", "c": ""}, "an up: Neg '.*' reads"),
        (f"{A} {C} {SILU} y = Mul (g, u) z = Neg (g)", "yz", {"a": "silu", "c": ""}, "an up: Neg '.*' reads"),
        (f"{A} {C} {SILU} y = Mul (g, u)", "yu", {"a": "silu", "c": ""}, "an up: what is between is an output"),
        (f"{A} {C.replace('(x', '(x2')} {SILU} y = Mul (g, u)", "y", {"a": "silu", "c": ""}, "c reads another X"),
        (f"{A_BIAS} {C} {SILU} y = Mul (g, u)", "y", {"a": "bias_silu", "c": ""}, "only one of it and c has a bias"),
        (f"{A} wd = Transpose <perm = [1, 0]> (d_weight) u = MatMul (x, wd) {SILU} y = Mul (g, u)", "y",
         {"a": "silu", "d": ""}, r"it is \(8, 8\), d \(1, 8\)"),
        (f"{A} {SILU} y = Mul (g, r)", "y", {"a": "silu"}, "the other factor is no linear"),
        (f"{A} {SILU} y = Mul (g, g)", "y", {"a": "silu"}, "the other factor is no linear"),
        (f"{A} {C} t = Mul (h, u) y = Gelu (t)", "y", {"a": "", "c": ""}, "Mul is no epilogue"),
    ],
)  # fmt: skip
def test_what_is_refused_and_why(body, results, nodes, reason, caplog):
    assert re.search(reason, refusals(caplog, model_with(body, tuple(results)), nodes))


def test_an_up_that_stays_dense_leaves_the_activation(caplog):
    model = model_with(f"{A} {C} {SILU} y = Mul (g, u)")
    said = refusals(caplog, model, {"a": "silu"}, dense=("c",))
    assert "a is not fused with an up: c is not packed" in said
