"""Puts linears that an exporter had joined in one product back into a single node, now packed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from patch_compile.packing.format import NARROW_PANEL
from patch_compile.packing.slab_kinds import stacked_rows
from patch_compile.passes.fusion.fuse_qkv import split_rows
from patch_compile.passes.linear_node import LinearNode, readers, refuse, take_over
from patch_compile.planning.lowering import LinearPlan

if TYPE_CHECKING:
    import onnx_ir as ir


class StackJoinedPass:
    """`Concat(Linear(X, A), Linear(X, B), …)` -> `Linear(X, A, B, …)`, of the Concats that SubstituteLinearsPass made.

    1. All of them are packed, share X and the weight type and have no epilogue but a bias, and no other node reads them.
    2. Each linear starts at a new panel. Panels are as low as needed to leave no row of padding between linears; if none is
       low enough, the padding is cut out by a Split and a Concat.
    """

    def __init__(self, joined: Sequence[ir.Node], plan: Mapping[str, LinearPlan]) -> None:
        """joined: the Concats; the list may be filled after this call. plan: of each linear that is lowered."""
        self._joined = joined
        self._plan = plan

    def __call__(self, model: ir.Model) -> ir.passes.PassResult:
        """Run as a pass of onnx_ir. `modified` of the result is True if any Concat was replaced."""
        from onnx_ir.passes import PassResult

        done = [self._stack(model.graph, concat) for concat in self._joined]
        return PassResult(model, modified=any(done))

    def _stack(self, graph: ir.Graph, concat: ir.Node) -> bool:
        """Replace a Concat and its linears by a single node. Returns False if that is not possible."""
        nodes = [node for value in concat.inputs if value is not None and (node := value.producer())]
        linears = [linear for value in concat.inputs if (linear := LinearNode.of(value)) is not None]
        if why := self._why_apart(concat, linears):
            refuse(str(concat.name), "one product again", why)
            return False
        together = LinearNode(
            linears[0].x,
            tuple(linear.weights[0] for linear in linears),
            tuple(bias for linear in linears for bias in linear.biases),
            panel_rows=self._panel_rows(linears),
        )
        made, output = together.node(), concat.outputs[0]
        graph.insert_before(nodes[0], made)
        whole = made.outputs[0]
        if together.rows == [n for n, _ in together.shapes]:
            take_over(output, whole)
            graph.remove(concat, safe=True)
        else:
            whole.name, whole.type = f"{together.name}/output", output.type
            whole.shape = None if output.shape is None else _last(output.shape, sum(together.rows))
            split_rows(graph, nodes, together, whole)
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
        if any(len(readers(value)) > 1 for value in concat.inputs if value is not None):
            return "another node reads one of them"
        return ""

    def _panel_rows(self, linears: Sequence[LinearNode]) -> int:
        rows = [linear.shapes[0][0] for linear in linears]
        panel = min(self._plan[linear.name].panel_rows for linear in linears)
        low = stacked_rows(rows, NARROW_PANEL) == rows
        return NARROW_PANEL if low and stacked_rows(rows, panel) != rows else panel


def _last(shape: ir.Shape, size: int) -> ir.Shape:
    import onnx_ir as ir

    return ir.Shape([*shape[:-1], size])
