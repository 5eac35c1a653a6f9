"""Puts linears that an exporter had joined in one product back into a single node, now packed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import onnx_ir as ir

from patch_compile.packing.format import NARROW_PANEL
from patch_compile.packing.slab_kinds import stacked_rows
from patch_compile.passes.fusion.fuse_qkv import split_rows
from patch_compile.passes.linear_node import LinearNode, refuse, take_over
from patch_compile.planning.lowering import LinearPlan


class StackJoinedPass(ir.passes.InPlacePass):
    """`Concat(Linear(X, A), Linear(X, B), …)` -> `Linear(X, A, B, …)`, of the Concats that SubstituteLinearsPass made.

    1. All of them are packed, share X and the weight type and have no epilogue but a bias, and no other node reads them.
    2. Each linear starts at a new panel. Panels are as low as needed to leave no row of padding between linears; if none is
       low enough, the padding is cut out by a Split and a Concat.
    """

    def __init__(self, joined: Sequence[ir.Node], plan: Mapping[str, LinearPlan]) -> None:
        """joined: the Concats; the list may be filled after this call. plan: of each linear that is lowered."""
        super().__init__()
        self._joined = joined
        self._plan = plan

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Replace the Concats that follow the rules."""
        stacked = [self._stack(model.graph, concat) for concat in self._joined]
        return ir.passes.PassResult(model, modified=any(stacked))

    def _stack(self, graph: ir.Graph, concat: ir.Node) -> bool:
        """Replace a Concat and its linears by a single node. Returns False if that is not possible."""
        nodes = [node for value in concat.inputs if value is not None and (node := value.producer())]
        linears = [linear for value in concat.inputs if (linear := LinearNode.of(value)) is not None]
        if why := self._why_apart(concat, linears):
            refuse(str(concat.name), "one product again", why)
            return False
        together = LinearNode.stacked(linears, self._panel_rows(linears))
        made = together.node()
        graph.insert_before(nodes[0], made)
        if together.rows == [n for n, _ in together.shapes]:
            take_over(concat.outputs[0], made.outputs[0])
            graph.remove(concat, safe=True)
        else:
            split_rows(graph, nodes, together, made.outputs[0])
        graph.remove(nodes, safe=True)
        return True

    def _why_apart(self, concat: ir.Node, linears: Sequence[LinearNode]) -> str:
        if len(linears) < len(concat.inputs):
            return "one of the linears is not packed"
        if any(linear.activation or linear.gated or linear.residual is not None for linear in linears):
            return "one of the linears has an epilogue"
        if len({linear.x for linear in linears}) > 1:
            return "their inputs differ"
        if len({bool(linear.biases) for linear in linears}) > 1:
            return "some have a bias"
        if len({self._plan[linear.name].weights for linear in linears}) > 1:
            return "their weights have different types"
        if any(len(value.uses()) > 1 for value in concat.inputs if value is not None):
            return "another node reads one of them"
        return ""

    def _panel_rows(self, linears: Sequence[LinearNode]) -> int:
        rows = [linear.shapes[0][0] for linear in linears]
        panel = min(self._plan[linear.name].panel_rows for linear in linears)
        low = stacked_rows(rows, NARROW_PANEL) == rows
        return NARROW_PANEL if low and stacked_rows(rows, panel) != rows else panel
