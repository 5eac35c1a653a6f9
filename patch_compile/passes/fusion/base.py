"""Base classes of fusions, which are graph passes, and the activations that they look for. Most fusions handle one Linear at
a time."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from patch_compile.packing.fusion import FUSIONS, Fusion
from patch_compile.passes.linear_node import linear_nodes, reader, why_open

if TYPE_CHECKING:
    import onnx_ir as ir

    from patch_compile.planning.lowering import LinearPlan

_GELU = {"none": "gelu", "tanh": "gelu_tanh"}  # kind by the attribute `approximate`


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
    """Fusion that handles each Linear separately and fuses the operations after it into it."""

    def run(self, model: ir.Model) -> bool:
        """Fuse the Linears in the graph's order. Returns True if any was fused."""
        fused = [self.fuse(node) for node in linear_nodes(model.graph)]
        return any(fused)

    @abstractmethod
    def fuse(self, node: ir.Node) -> bool:
        """Replace a Linear and the operations after it by a single Linear. Returns False if that is not possible."""


def fusion_passes(names: Collection[str], plan: Mapping[str, LinearPlan]) -> list[FusionPass]:
    """Returns the passes of these fusions, in their order."""
    chosen = []
    for name, kind in FUSIONS.items():
        if name in names:
            if not issubclass(kind, FusionPass):
                raise TypeError(f"{kind} can't run: it is not a FusionPass")
            chosen.append(kind(plan))
    return chosen


@dataclass(frozen=True)
class Activation:
    """Activation of a value.

    kind: its name in PatchLinear; nodes: nodes that compute it, the last of which gives its output; open: the reason why it
    can't be fused, because another node reads a value in between, else empty.
    """

    kind: str
    nodes: tuple[ir.Node, ...]
    open: str

    @property
    def output(self) -> ir.Value:
        """Output of the activation, [..., N]."""
        return self.nodes[-1].outputs[0]


def find_activation(x: ir.Value) -> Activation | None:
    """Returns the activation of `x`, or None: GELU (exact or by tanh) as Gelu(x), or SiLU as Mul(x, Sigmoid(x))."""
    kind, nodes = _silu(x) or _gelu(x) or ("", ())
    if not nodes:
        return None
    between = [x, *(node.outputs[0] for node in nodes[:-1])]
    return Activation(kind, nodes, next(filter(None, (why_open(value, nodes) for value in between)), ""))


def _gelu(x: ir.Value) -> tuple[str, tuple[ir.Node, ...]] | None:
    gelu = reader(x, "Gelu")
    if gelu is None:
        return None
    return _GELU[gelu.attributes.get_string("approximate", "none")], (gelu,)


def _silu(x: ir.Value) -> tuple[str, tuple[ir.Node, ...]] | None:
    sigmoid = reader(x, "Sigmoid")
    product = reader(sigmoid.outputs[0], "Mul") if sigmoid else None
    if sigmoid is None or product is None or {*product.inputs} != {x, sigmoid.outputs[0]}:
        return None
    return "silu", (sigmoid, product)
