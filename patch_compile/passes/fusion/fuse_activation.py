"""The activation behind a linear in its node."""

from dataclasses import replace as changed

import onnx_ir as ir

from patch_compile.passes.fusion.activations import find_activation
from patch_compile.passes.fusion.fusion_pass import FusionPass
from patch_compile.passes.linear_node import ACTIVATIONS, LinearNode, refuse, replace

__all__ = ["FuseActivationPass"]


class FuseActivationPass(FusionPass):
    """`activation(Linear(X, W))` -> `Linear(X, W)` with it: GELU, exact or by tanh, and SiLU as Mul(y, Sigmoid(y)).

    Nothing else reads what is between. A Cast in between rounds, and PatchLinear rounds once, so it stays outside.
    """

    def fuse(self, node: ir.Node) -> bool:
        """Take in the activation behind a node."""
        linear = LinearNode.read(node)
        activation = find_activation(node.outputs[0])
        if activation is None or linear.activation:
            return False
        if activation.open:
            refuse(linear.name, ACTIVATIONS[activation.kind], activation.open)
            return False
        *between, last = activation.nodes
        replace([node, *between], last, changed(linear, activation=activation.kind))
        return True
