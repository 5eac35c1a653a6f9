"""Which epilogues are found, which are refused and why; each graph then gives what it gave before."""

import logging
import re
from dataclasses import replace

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from patch_compile.passes.find_epilogues import find_epilogues
from patch_compile.passes.find_linears import find_linears
from patch_compile.passes.pack_linears import PackLinearsPass
from patch_compile.plan.lowering import plan_linears
from tests.mosaics import masked_by_hand, random_mask
from tests.passes.test_cleanup_passes import graph_of, outputs

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


def values() -> dict[str, np.ndarray]:
    """Weights, already pruned, biases and inputs."""
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
    """A graph of fp16 values [b, 8]: inputs, and weights and biases as initializers."""
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


def packed(model: ir.Model, dense: tuple[str, ...] = ()) -> dict[str, str]:
    """Pack the linears in place; name of each PatchLinear → its overload."""
    found = {name: mask for name, (mask, _) in masks(dense).items() if name in find_linears(model)}
    PackLinearsPass(plan_linears(found), found, values().__getitem__, HALF)(model)
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    return {str(node.name): node.overload for node in model.graph if node.op_type == "PatchLinear"}


def check_same(model: ir.Model, before: ir.Model) -> None:
    feed = {str(value.name): values()[str(value.name)] for value in before.graph.inputs}
    for now, then in zip(outputs(model, **feed), outputs(before, **feed), strict=True):
        then = then.astype(np.float32)
        np.testing.assert_allclose(
            now.astype(np.float32), then, rtol=2.0**-8, atol=2.0**-8 * np.abs(then).max()
        )


@pytest.mark.parametrize(
    ("body", "nodes"),
    [
        (f"{A} s = Sigmoid (h) y = Mul (h, s)", {"a": "silu"}),
        (f"{A} s = Sigmoid (h) y = Mul (s, h)", {"a": "silu"}),
        (f"{A_BIAS} y = Gelu (h)", {"a": "bias_gelu"}),
        (f'{A} y = Gelu <approximate = "tanh"> (h)', {"a": "gelu_tanh"}),
        (f"{A} y = Add (h, r)", {"a": "residual"}),
        (f"{A_BIAS} y = Add (r, h)", {"a": "bias_residual"}),
        (f"{A_BIAS} v = Gelu (h) y = Add (r, v)", {"a": "bias_gelu_residual"}),
        (f"{A} {C} {SILU} y = Mul (g, u)", {"a+c": "gated_silu"}),
        (f"{C} {A} {SILU} y = Mul (u, g)", {"a+c": "gated_silu"}),
        (f"{A_BIAS} {C_BIAS} g = Gelu (h) y = Mul (g, u)", {"a+c": "bias_gated_gelu"}),
        # A sum of two linears is one node with the other's output as its residual.
        (f"{A} {C} y = Add (h, u)", {"a": "residual", "c": ""}),
        # What a node reads is itself replaced first, or later.
        (f"{A} g = Gelu (h) {C.replace('(x', '(g')} y = Add (x, u)", {"a": "gelu", "c": "residual"}),
        (f"{A} {C.replace('(x', '(r')} v = Gelu (u) y = Add (h, v)", {"a": "residual", "c": "gelu"}),
        (f"{A} y = Neg (h)", {"a": ""}),
        # A Gelu that others read, or that is an output, is no problem: it is the node's output.
        (f"{A} g = Gelu (h) n = Neg (g) y = Mul (g, n)", {"a": "gelu"}),
    ],
)  # fmt: skip
def test_what_is_fused(body: str, nodes: dict[str, str]) -> None:
    model = model_with(body)
    assert packed(model) == nodes
    check_same(model, model_with(body))


@pytest.mark.parametrize(
    ("body", "results", "nodes", "reason"),
    [
        (f"{A} y = Gelu (h) z = Neg (h)", "yz", {"a": ""}, "Neg '.*' reads what is between too"),
        (f"{A} {SILU} y = Neg (g) z = Neg (s)", "yz", {"a": ""}, "SiLU: Neg '.*' reads what is between too"),
        (f"{A} y = Gelu (h)", "yh", {"a": ""}, "GELU: what is between is an output of the graph"),
        (f"{A} y = Add (h, r)", "yh", {"a": ""}, "residual of '.*': what is between is an output"),
        (f"{A} y = Add (h, r) z = Neg (h)", "yz", {"a": ""}, "residual of '.*': Neg '.*' reads"),
        (f"{A} g = Gelu (h) y = Add (g, r)", "yg", {"a": "gelu"}, "what is between is an output"),
        (f"{A} {C} {SILU} y = Mul (g, u) z = Neg (u)", "yz", {"a": "silu", "c": ""}, "an up: Neg '.*' reads"),
        (f"{A} {C} {SILU} y = Mul (g, u) z = Neg (g)", "yz", {"a": "silu", "c": ""}, "an up: Neg '.*' reads"),
        (f"{A} {C} {SILU} y = Mul (g, u)", "yu", {"a": "silu", "c": ""}, "an up: what is between is an output"),
        (f"{A} {C.replace('(x', '(x2')} {SILU} y = Mul (g, u)", "y", {"a": "silu", "c": ""}, "c reads another X"),
        (f"{A_BIAS} {C} {SILU} y = Mul (g, u)", "y", {"a": "bias_silu", "c": ""}, "only one of it and c has a bias"),
        (f"{A} wd = Transpose <perm = [1, 0]> (d_weight) u = MatMul (x, wd) {SILU} y = Mul (g, u)", "y",
         {"a": "silu", "d": ""}, r"it is \(8, 8\), d \(1, 8\)"),
        (f"{A} {SILU} y = Mul (g, r)", "y", {"a": "silu"}, "the other factor is no linear"),
        (f"{A} {C} t = Mul (h, u) y = Gelu (t)", "y", {"a": "", "c": ""}, "Mul is no epilogue"),
        (f"{A} k = Cast <to = 1> (h) f = Gelu (k) y = Cast <to = 10> (f)", "y", {"a": ""}, "Cast is no epilogue"),
        (f"{A} k = Cast <to = 1> (h) o = Cast <to = 10> (k) y = Add (o, r)", "y", {"a": ""}, "Cast is no epilogue"),
        (f"{A} y = Add (h, one_row)", "y", {"a": ""}, r"what is added is \[1,8\], not known to be \[b,8\]"),
        (f"{A} y = Add (h, other)", "y", {"a": ""}, r"what is added is \[n,8\], not known to be \[b,8\]"),
        (f"{A} y = Add (h, position)", "y", {"a": ""}, "what is added is a constant"),
        (f"{A} y = Add (h, h)", "y", {"a": ""}, "it adds the linear to itself"),
        (f"{A} {C} y = Add (h, u)", "y", {"a": "residual", "c": ""}, "c .*: another linear has taken it"),
        # as quick_gelu of transformers: h · sigmoid(1.702 h)
        (f"{A} t = Mul (h, one_row) s = Sigmoid (t) y = Mul (h, s)", "y",
         {"a": ""}, "Mul, Mul is no epilogue"),
        (f"{A} s = Sigmoid (h) y = Mul (r, s)", "y", {"a": ""}, "Sigmoid is no epilogue"),
    ],
)  # fmt: skip
def test_what_is_refused_and_why(
    body: str, results: str, nodes: dict[str, str], reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    model = model_with(body, tuple(results))
    with caplog.at_level(logging.DEBUG, "patch_compile.passes.find_epilogues"):
        assert packed(model) == nodes
    assert re.search(reason, caplog.text), caplog.text
    check_same(model, model_with(body, tuple(results)))


def test_an_up_that_stays_dense_leaves_the_activation(caplog: pytest.LogCaptureFixture) -> None:
    body = f"{A} {C} {SILU} y = Mul (g, u)"
    model = model_with(body)
    with caplog.at_level(logging.DEBUG, "patch_compile.passes.find_epilogues"):
        assert packed(model, dense=("c",)) == {"a": "silu"}
    assert "a is not fused with an up: c is not packed" in caplog.text


def test_names_and_words() -> None:
    def first(body: str):
        linears = find_linears(model_with(body))
        return find_epilogues(linears, linears)[0]

    gated = first(f"{A} {C} {SILU} y = Mul (g, u)")
    assert [gated.described(name) for name in "ac"] == ["SiLU·mul with c", "SiLU·mul with a"]
    assert first(f"{A_BIAS} g = Gelu (h) y = Add (g, r)").described("a") == "GELU + residual"
    assert first(f"{A_BIAS} y = Neg (h)").described("a") == ""


@pytest.mark.parametrize(
    ("gate", "up", "node"),
    [
        (
            "model.layers.1.mlp.gate_proj",
            "model.layers.1.mlp.up_proj",
            "model.layers.1.mlp.gate_proj+up_proj",
        ),
        ("h.0.gate.w1", "h.0.up.w1", "h.0.gate.w1+up.w1"),
        ("gate", "up", "gate+up"),
    ],
)
def test_the_name_of_a_pair(gate: str, up: str, node: str) -> None:
    linears = find_linears(model_with(f"{A} {C} {SILU} y = Mul (g, u)"))
    (site,) = find_epilogues(linears, linears)
    renamed = [replace(linear, name=name) for linear, name in zip(site.linears, (gate, up), strict=True)]
    assert replace(site, linears=tuple(renamed)).name == node
