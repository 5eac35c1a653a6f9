"""Fuses the linears for queries, keys and values of one X into a single product."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from masklearn.masks.name_globs import depth_of
from patch_compile.packing.fusion import FUSIONS, QKV
from patch_compile.passes.constants import add_constant, scalar_of, with_last
from patch_compile.passes.fusion.base import FusionPass
from patch_compile.passes.linear_node import LinearNode, linear_nodes, refuse, take_over

if TYPE_CHECKING:
    import onnx_ir as ir

_HEADS = ("Reshape", "Attention")  # operators that split [..., N] into heads
_PASSED = ("Cast", "Mul", "Div")  # operators that may come before these: casts, and a scale of queries


@FUSIONS.register
class FuseQkvPass(FusionPass):
    """`Linear(X, q), Linear(X, k), Linear(X, v)` -> `Split(Linear(X, q, k, v))`, of any two or more of a block.

    1. The linears are found by the graph: they read the same X, and only Reshape or Attention, which split into heads, read
       their outputs. All or none of them have a bias, their weights have the same type, and none has an activation or a
       residual. A linear that is not packed is not fused.
    2. Each linear starts at a new panel, so it keeps its tile map and its slabs. The rows that pad its last panel are zero,
       and no node reads their part of the Split. Panels are as high as the lowest panels of the linears.
    3. The parts of the Split keep the names of the linears' outputs. The Split copies Y unless TensorRT lets its readers
       address their part of Y; docs/explanation/decisions/0010-qkv.md gives the cost.
    """

    name = QKV
    summary = "q, k, v"
    place = 50

    def run(self, model: ir.Model) -> bool:
        """Merge each group at the place of its first linear. Returns True if there was any."""
        groups: dict[tuple[ir.Value, int | None, bool, str], list[ir.Node]] = {}
        for node in linear_nodes(model.graph):
            linear = LinearNode.read(node)
            if why := _why_alone(linear, node.outputs[0]):
                refuse(linear.name, "linears of its X", why)
                continue
            weights = self._plan[linear.name].weights
            key = linear.x, depth_of(linear.name), bool(linear.biases), weights
            groups.setdefault(key, []).append(node)
        several = [nodes for nodes in groups.values() if _are_several(nodes)]
        for nodes in several:
            self._merge(model.graph, nodes)
        return bool(several)

    def _merge(self, graph: ir.Graph, nodes: Sequence[ir.Node]) -> None:
        linears = [LinearNode.read(node) for node in nodes]
        together = LinearNode.stacked(linears, min(self._plan[linear.name].panel_rows for linear in linears))
        merged = together.node()
        graph.insert_before(nodes[0], merged)
        split_rows(graph, nodes, together, merged.outputs[0])
        graph.remove(nodes, safe=True)


def _why_alone(linear: LinearNode, output: ir.Value) -> str:
    if linear.gated or linear.activation or linear.residual is not None:
        return f"it has an epilogue: {linear.epilogue.overload}"
    if output.is_graph_output():
        return "it is an output of the graph"
    others = [node for node in output.consumers() if not _makes_heads(node, output)]
    if others or not output.uses():
        return f"{others[0].op_type if others else 'nothing'} reads it, which does not cut it into heads"
    return ""


def _makes_heads(node: ir.Node, value: ir.Value) -> bool:
    if node.op_type in _HEADS:
        return True
    others = [other for other in node.inputs if other is not value]
    if node.op_type not in _PASSED or any(scalar_of(other) is None for other in others):
        return False
    result = node.outputs[0]
    return bool(result.uses()) and all(_makes_heads(reader, result) for reader in result.consumers())


def _are_several(nodes: Sequence[ir.Node]) -> bool:
    if len(nodes) > 1:
        return True
    linear = LinearNode.read(nodes[0])
    bias = "a bias" if linear.biases else "no bias"
    why = f"no other linear of its block that reads X has the same weight type and {bias}"
    refuse(linear.name, "linears of its X", why)
    return False


def split_rows(graph: ir.Graph, nodes: Sequence[ir.Node], together: LinearNode, whole: ir.Value) -> None:
    """Name the joint output, and split it, before the first of `nodes`, into the outputs of these linears and the padding
    after each."""
    import numpy as np
    import onnx_ir as ir

    from patch_compile.onnx_io.write import free_name

    _name(whole, f"{together.name}/output", nodes[0].outputs[0], sum(together.rows))
    parts: list[tuple[int, ir.Value | None]] = []  # rows, and the linear's output, None for padding
    for node, (rows, _), padded in zip(nodes, together.shapes, together.rows, strict=True):
        parts.append((rows, node.outputs[0]))
        if padded > rows:
            parts.append((padded - rows, None))
    sizes_name = free_name(f"{together.name}.parts", graph.initializers)
    sizes = add_constant(graph, sizes_name, np.array([rows for rows, _ in parts], np.int64))
    name = f"{together.name}/parts"
    split = ir.node("Split", [whole, sizes], {"axis": -1}, num_outputs=len(parts), name=name)
    graph.insert_before(nodes[0], split)
    for number, (made, (rows, value)) in enumerate(zip(split.outputs, parts, strict=True)):
        if value is None:
            _name(made, f"{together.name}/padding{number}", whole, rows)
        else:
            take_over(value, made)


def _name(made: ir.Value, name: str, like: ir.Value, size: int) -> None:
    """Name a value, and give it the type and the shape of `like` with `size` in the last dimension."""
    made.name, made.type, made.shape = name, like.type, with_last(like.shape, size)
