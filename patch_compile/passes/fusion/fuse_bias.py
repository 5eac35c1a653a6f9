"""Fuses the bias of a linear into its node."""

from __future__ import annotations

from typing import TYPE_CHECKING

from patch_compile.packing.fusion import FUSIONS
from patch_compile.passes.fusion.base import EpiloguePass
from patch_compile.passes.linear_node import LinearNode, reader, refuse, replace, why_open

if TYPE_CHECKING:
    import onnx_ir as ir


@FUSIONS.register
class FuseBiasPass(EpiloguePass):
    """`Add(Linear(X, W), b)` -> `Linear(X, W, b)`, b an initializer [N]; nothing else reads the product."""

    name = "bias"
    summary = "the linear's bias"
    place = 10

    def fuse(self, node: ir.Node) -> bool:
        """Fuse the Add of a bias after a node."""
        linear, output = LinearNode.read(node), node.outputs[0]
        add = reader(output, "Add")
        bias = next((v for v in add.inputs if v is not output), None) if add is not None else None
        if add is None or bias is None or not _is_bias(bias, linear.shapes[0][0]):
            return False
        if why := why_open(output, [add]):
            refuse(linear.name, f"the bias {bias.name}", why)
            return False
        replace([node], add, LinearNode(linear.x, linear.weights, (bias,)))
        return True


def _is_bias(value: ir.Value, size: int) -> bool:
    return value.is_initializer() and value.shape is not None and tuple(value.shape) == (size,)
