"""The bias of a linear in its node."""

import onnx_ir as ir

from patch_compile.passes.find_linears import is_bias
from patch_compile.passes.fusion.fusion_pass import FusionPass
from patch_compile.passes.linear_node import LinearNode, reader, refuse, replace, why_open

__all__ = ["FuseBiasPass"]


class FuseBiasPass(FusionPass):
    """`Add(Linear(X, W), b)` -> `Linear(X, W, b)`, b an initializer [N]; nothing else reads the product."""

    def fuse(self, node: ir.Node) -> bool:
        """Take in the Add behind a node."""
        linear, output = LinearNode.read(node), node.outputs[0]
        add = reader(output, "Add")
        bias = next((v for v in add.inputs if v is not output), None) if add is not None else None
        if add is None or bias is None or not is_bias(bias, linear.weights[0]):
            return False
        if why := why_open(output, [add]):
            refuse(linear.name, f"the bias {bias.name}", why)
            return False
        replace([node], add, LinearNode(linear.x, linear.weights, (bias,)))
        return True
