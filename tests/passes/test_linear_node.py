import onnx_ir as ir
import pytest

from patch_compile.passes.linear_node import LinearNode, linear_nodes
from patch_compile.passes.lowering.gather_linears import GatherLinearsPass
from tests.passes.fusion.fusing import A_BIAS, HALF, A, model_with, plan_of
from tests.refusals import refused


def weight(name: str, rows: int = 64) -> ir.Value:
    return ir.Value(name=f"{name}.weight", shape=ir.Shape([rows, 64]), type=ir.TensorType(HALF))


def linear(*names: str, **options) -> LinearNode:
    return LinearNode(ir.Value(name="x"), tuple(map(weight, names)), **options)


@pytest.mark.parametrize(
    ("names", "node"),
    [
        (("model.layers.1.mlp.gate_proj", "model.layers.1.mlp.up_proj"), "model.layers.1.mlp.gate_proj+up_proj"),
        (("l.0.attn.q", "l.0.attn.k", "l.0.attn.v"), "l.0.attn.q+k+v"),
        (("h.0.gate.w1", "h.0.up.w1"), "h.0.gate.w1+up.w1"),
        (("gate", "up"), "gate+up"),
        (("only",), "only"),
    ],
)  # fmt: skip
def test_the_name_of_a_node(names, node):
    assert linear(*names).name == node


def test_a_node_is_read_as_it_was_made():
    biases = weight("b"), weight("c")
    for made in (
        linear("a"),
        linear("a", residual=ir.Value(name="r")),
        linear("a", "c", biases=biases, activation="silu", gated=True, residual=ir.Value(name="r")),
        linear("a", "c", panel_rows=64),
    ):
        assert LinearNode.read(made.node()) == made


def test_what_is_planned_is_gathered_and_nothing_else():
    model = model_with(f"{A_BIAS} y = Neg (h)")
    plan = plan_of(model)
    gathering = GatherLinearsPass(plan, HALF)
    gathering(model)
    assert [LinearNode.read(node).linears for node in linear_nodes(model.graph)] == [("a",)]
    model = model_with(f"{A} y = Neg (h)")
    with refused(ir.passes.PostconditionError):
        gathering.ensures(model)
