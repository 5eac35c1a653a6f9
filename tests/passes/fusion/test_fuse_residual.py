import re

import pytest

from tests.passes.fusion.fusing import A_BIAS, EPILOGUES, A, C, check_fused, model_with, refusals


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
        (f"{A} y = Add (h, r)", "yh", {"a": ""}, "residual of '.*': what is between is an output"),
        (f"{A} y = Add (h, r) z = Neg (h)", "yz", {"a": ""}, "residual of '.*': Neg '.*' reads"),
        (f"{A} g = Gelu (h) y = Add (g, r)", "yg", {"a": "gelu"}, "what is between is an output"),
        (f"{A} k = Cast <to = 1> (h) o = Cast <to = 10> (k) y = Add (o, r)", "y", {"a": ""}, "Cast is no epilogue"),
        (f"{A} y = Add (h, one_row)", "y", {"a": ""}, r"what is added is \[1,8\], not known to be \[b,8\]"),
        (f"{A} y = Add (h, other)", "y", {"a": ""}, r"what is added is \[n,8\], not known to be \[b,8\]"),
        (f"{A} y = Add (h, position)", "y", {"a": ""}, "what is added is a constant"),
        (f"{A} y = Add (h, h)", "y", {"a": ""}, "it adds the linear to itself"),
        # another linear has taken the Add
        (f"{A} {C} y = Add (h, u)", "y", {"a": "residual", "c": ""}, "c .*: Linear is no epilogue"),
    ],
)  # fmt: skip
def test_what_is_refused_and_why(body, results, nodes, reason, caplog):
    assert re.search(reason, refusals(caplog, model_with(body, tuple(results)), nodes))
