"""What the fusions have in common: they run as graph passes, most of them on one Linear after the other."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

from patch_compile.packing.fusion import FUSIONS, Fusion
from patch_compile.passes.linear_node import linear_nodes

if TYPE_CHECKING:
    import onnx_ir as ir

    from patch_compile.plan.lowering import LinearPlan

__all__ = ["EpiloguePass", "FusionPass", "fusion_passes"]


class FusionPass(Fusion, ABC):
    """A graph pass that fuses something with the Linears of a graph. Why one is not fused is logged for debugging."""

    def __init__(self, plan: Mapping[str, LinearPlan]) -> None:
        """plan: of each linear in the graph."""
        self._plan = plan

    def __call__(self, model: ir.Model) -> ir.passes.PassResult:
        """Run as the passes of onnx_ir do; modified tells whether anything was fused."""
        from onnx_ir.passes import PassResult

        return PassResult(model, modified=self.run(model))

    @abstractmethod
    def run(self, model: ir.Model) -> bool:
        """Fuse what can be; True where anything was."""


class EpiloguePass(FusionPass):
    """Fuses each Linear on its own with what follows it."""

    def run(self, model: ir.Model) -> bool:
        """Look at the Linears in the graph's order."""
        fused = [self.fuse(node) for node in linear_nodes(model.graph)]
        return any(fused)

    @abstractmethod
    def fuse(self, node: ir.Node) -> bool:
        """Replace a Linear and what it is fused with by one; False where it can't be."""


def fusion_passes(names: Collection[str], plan: Mapping[str, LinearPlan]) -> list[FusionPass]:
    """The passes of these fusions, in their order."""
    found = []
    for name, kind in FUSIONS.items():
        if name in names:
            if not issubclass(kind, FusionPass):
                raise TypeError(f"{kind} can't run: it is no FusionPass")
            found.append(kind(plan))
    return found
