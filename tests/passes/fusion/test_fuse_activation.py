import re

import pytest

from tests.passes.fusion.fusing import A_BIAS, EPILOGUES, SILU, A, check_fused, model_with, refusals


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
    ("body", "results", "reason"),
    [
        (f"{A} y = Gelu (h) z = Neg (h)", "yz", "GELU: Neg '.*' reads what is between too"),
        (f"{A} {SILU} y = Neg (g) z = Neg (s)", "yz", "SiLU: Neg '.*' reads what is between too"),
        (f"{A} y = Gelu (h)", "yh", "GELU: what is between is an output of the graph"),
        (f"{A} k = Cast <to = 1> (h) f = Gelu (k) y = Cast <to = 10> (f)", "y", "Cast is no epilogue"),
        # quick_gelu of transformers: h · sigmoid(1.702 h)
        (f"{A} t = Mul (h, one_row) s = Sigmoid (t) y = Mul (h, s)", "y", "Mul, Mul is no epilogue"),
        (f"{A} s = Sigmoid (h) y = Mul (r, s)", "y", "Sigmoid is no epilogue"),
    ],
)
def test_what_is_refused_and_why(body, results, reason, caplog):
    assert re.search(reason, refusals(caplog, model_with(body, tuple(results)), {"a": ""}))
