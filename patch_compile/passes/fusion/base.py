"""Base classes of fusions, which are graph passes. Most of them handle one Linear after the other."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

from patch_compile.packing.fusion import FUSIONS, Fusion
from patch_compile.passes.linear_node import linear_nodes

if TYPE_CHECKING:
    import onnx_ir as ir

    from patch_compile.planning.lowering import LinearPlan

__all__ = ["EpiloguePass", "FusionPass", "fusion_passes"]


class FusionPass(Fusion, ABC):
    """Graph pass that fuses operations with the Linears of a graph. It logs the reason why a Linear is not fused."""

    def __init__(self, plan: Mapping[str, LinearPlan]) -> None:
        """plan: plan of each linear in the graph."""
        self._plan = plan

    def __call__(self, model: ir.Model) -> ir.passes.PassResult:
        """Run as a pass of onnx_ir. `modified` of the result is True if anything was fused."""
        from onnx_ir.passes import PassResult

        return PassResult(model, modified=self.run(model))

    @abstractmethod
    def run(self, model: ir.Model) -> bool:
        """Fuse as much as possible. Returns True if anything was fused."""


class EpiloguePass(FusionPass):
    """Fusion that takes each Linear by itself and fuses it with operations that follow it."""

    def run(self, model: ir.Model) -> bool:
        """Fuse the Linears in the graph's order. Returns True if any was fused."""
        fused = [self.fuse(node) for node in linear_nodes(model.graph)]
        return any(fused)

    @abstractmethod
    def fuse(self, node: ir.Node) -> bool:
        """Replace a Linear and the operations after it by one Linear. Returns False if that is not possible."""


def fusion_passes(names: Collection[str], plan: Mapping[str, LinearPlan]) -> list[FusionPass]:
    """Returns the passes of these fusions, in their order."""
    found = []
    for name, kind in FUSIONS.items():
        if name in names:
            if not issubclass(kind, FusionPass):
                raise TypeError(f"{kind} can't run: it is no FusionPass")
            found.append(kind(plan))
    return found
