"""Fuses gate and up of a gated MLP, and their elementwise product, into one node."""

from __future__ import annotations

from typing import TYPE_CHECKING

from patch_compile.packing.fusion import FUSIONS, GATED
from patch_compile.packing.slab_kinds import TURN, take_turns
from patch_compile.passes.fusion.base import EpiloguePass, find_activation
from patch_compile.passes.linear_node import LinearNode, reader, refuse, replace, why_open

if TYPE_CHECKING:
    import onnx_ir as ir


@FUSIONS.register
class FuseGatedPass(EpiloguePass):
    """`Mul(activation(Linear(X, gate)), Linear(X, up))` -> `Linear(X, gate, up)`, gated.

    Gate and up must have the same X, the same shape and the same weight type, and both or neither must have a bias. Their
    rows are a multiple of 8, because they take turns of 8 rows. No other node may read the values in between. A pair that
    the plan sets `apart` stays two nodes.
    """

    name = GATED
    summary = "gate, up, SiLU·mul"
    place = 20
    reads_activation = True

    def fuse(self, node: ir.Node) -> bool:
        """Fuse a gate with its up."""
        gate, activation = LinearNode.read(node), find_activation(node.outputs[0])
        product = reader(activation.output, "Mul") if activation else None
        if activation is None or activation.open or product is None:
            return False
        up_output = next((value for value in product.inputs if value is not activation.output), None)
        up = LinearNode.of(up_output)
        why = self._why_no_pair(gate, up) or why_open(activation.output, [product])
        if not why and up_output is not None:
            why = why_open(up_output, [product])
        if why or up is None or up_output is None:
            refuse(gate.name, "an up", why)
            return False
        up_node = up_output.producer()
        assert up_node is not None
        both = LinearNode(
            gate.x,
            (*gate.weights, *up.weights),
            (*gate.biases, *up.biases),
            activation.kind,
            gated=True,
            panel_rows=self._plan[gate.name].heights_with(self._plan[up.name])[0] // 2,
        )
        replace([node, up_node, *activation.nodes], product, both)
        return True

    def _why_no_pair(self, gate: LinearNode, up: LinearNode | None) -> str:
        """Returns the reason why two factors can't be gate and up of one node; empty if they can."""
        if up is None:
            return "the other factor is no linear that is packed"
        if up.gated:
            return "the other factor is gated itself"
        if self._plan[gate.name].apart:
            return "a node each is predicted to be faster"
        if gate.x is not up.x:
            return f"{up.name} reads another X"
        if not take_turns(gate.shapes[0], up.shapes[0]):
            return f"it is {gate.shapes[0]} and {up.name} {up.shapes[0]}, not equal with a multiple of {TURN} rows"
        if len(gate.biases) != len(up.biases):
            return f"only one of it and {up.name} has a bias"
        types = [self._plan[linear.name].weights for linear in (gate, up)]
        if types[0] != types[1]:
            return f"its weights are {types[0]}, the weights of {up.name} {types[1]}"
        return ""
