"""What the fusions have in common: each looks at one Linear after the other."""

from abc import abstractmethod

import onnx_ir as ir
from onnx_ir import passes

from patch_compile.passes.linear_node import linear_nodes

__all__ = ["FusionPass"]


class FusionPass(passes.InPlacePass):
    """Fuses something with the Linears of a graph, in its order. Why one is not fused is logged for debugging."""

    @abstractmethod
    def fuse(self, node: ir.Node) -> bool:
        """Replace a Linear and what it is fused with by one; False where it can't be."""

    def call(self, model: ir.Model) -> passes.PassResult:
        """Fuse what can be; modified tells whether anything was."""
        fused = [self.fuse(node) for node in linear_nodes(model.graph)]
        return passes.PassResult(model, modified=any(fused))
