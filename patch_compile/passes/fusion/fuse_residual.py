"""Fuses the sum of a linear and a residual into the linear's node."""

from __future__ import annotations

from dataclasses import replace as changed
from typing import TYPE_CHECKING

from patch_compile.packing.fusion import FUSIONS
from patch_compile.passes.constants import constant_of, same_known_shape
from patch_compile.passes.fusion.base import EpiloguePass
from patch_compile.passes.linear_node import LinearNode, reader, refuse, replace, why_open

if TYPE_CHECKING:
    import onnx_ir as ir


@FUSIONS.register
class FuseResidualPass(EpiloguePass):
    """`Add(Linear(X, W), residual)` -> `Linear(X, W, residual)`, behind its activation if it has an activation.

    The residual must have the same type and provably (by the graph's symbolic dimensions) the same shape, and must not be a
    constant, because the plugin does not broadcast. No other node may read the values in between.
    """

    name = "residual"
    summary = "a sum with a value of its shape"
    place = 40

    def fuse(self, node: ir.Node) -> bool:
        """Fuse the Add of a residual after a node."""
        linear, output = LinearNode.read(node), node.outputs[0]
        add = reader(output, "Add")
        if add is None:
            if not linear.activation:
                followers = ", ".join(node.op_type for node in output.consumers()) or "nothing"
                refuse(linear.name, "what follows", f"{followers} is not an epilogue")
            return False
        residual = add.inputs[1 if add.inputs[0] is output else 0]
        why = _why_none(linear, output, add, residual)
        if why:
            refuse(linear.name, f"the residual of {add.name!r}", why)
            return False
        replace([node], add, changed(linear, residual=residual))
        return True


def _why_none(linear: LinearNode, output: ir.Value, add: ir.Node, residual: ir.Value | None) -> str:
    if residual is None or residual is output:
        return "it adds the linear to itself"
    if residual.is_initializer() or constant_of(residual) is not None:
        return "the addend is a constant"
    if residual.dtype != linear.weights[0].dtype:
        return f"the addend is {residual.dtype}"
    if not same_known_shape(residual.shape, output.shape):
        return f"the addend is {residual.shape}, not known to be {output.shape}"
    return why_open(output, [add])
