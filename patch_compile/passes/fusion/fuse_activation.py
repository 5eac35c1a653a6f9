"""Fuses the activation after a linear into its node."""

from __future__ import annotations

from dataclasses import replace as changed
from typing import TYPE_CHECKING

from patch_compile.packing.fusion import FUSIONS
from patch_compile.passes.fusion.base import EpiloguePass, find_activation
from patch_compile.passes.linear_node import ACTIVATIONS, LinearNode, refuse, replace

if TYPE_CHECKING:
    import onnx_ir as ir


@FUSIONS.register
class FuseActivationPass(EpiloguePass):
    """`activation(Linear(X, W))` -> `Linear(X, W)` with it: GELU, exact or by tanh, and SiLU as Mul(y, Sigmoid(y)).

    No other node may read the values in between. An activation after a Cast is not fused: the Cast rounds the product,
    while PatchLinear rounds only once, after the activation.
    """

    name = "activation"
    summary = "GELU, SiLU"
    place = 30
    reads_activation = True

    def fuse(self, node: ir.Node) -> bool:
        """Fuse the activation after a node."""
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
