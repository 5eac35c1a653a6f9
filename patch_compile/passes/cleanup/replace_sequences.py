"""Replaces sequences of tensors by the outputs of a Split."""

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from patch_compile.onnx_io.proto import STANDARD_DOMAINS
from patch_compile.passes.constants import add_constant, constant_of, scalar_of


class ReplaceSequencesPass(ir.passes.InPlacePass):
    """`SequenceAt(SplitToSequence(x, sizes), i)` -> output i of `Split(x, sizes)`: TensorRT has no sequences.

    1. The sizes must be constants: one per part, or one for all parts of an axis of known length.
    2. The parts must keep their axis (keepdims = 1).
    3. All readers of the sequence must be SequenceAt with a constant position.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Rewrite every sequence that follows the rules."""
        modified = False
        for node in list(model.graph):
            if node.op_type == "SplitToSequence" and node.domain in STANDARD_DOMAINS:
                modified = _replace(model.graph, node) or modified
        return ir.passes.PassResult(model, modified=modified)


def _replace(graph: ir.Graph, node: ir.Node) -> bool:
    sizes, readers = _sizes(node), node.outputs[0].consumers()
    positions = [scalar_of(reader.inputs[1]) for reader in readers if reader.op_type == "SequenceAt"]
    if sizes is None or len(positions) != len(readers) or None in positions:
        return False
    split = _split(node, sizes)
    graph.insert_before(node, split)
    for reader, position in zip(readers, positions, strict=True):
        assert position is not None
        part, element = split.outputs[int(position)], reader.outputs[0]
        part.shape = element.shape
        if element.is_graph_output():
            part.name, element.name = element.name, None
        ir.convenience.replace_all_uses_with(element, part, replace_graph_outputs=True)
        graph.remove(reader, safe=True)
    graph.remove(node, safe=True)
    return True


def _sizes(node: ir.Node) -> list[int] | None:
    """Returns the length of every part, None if unknown."""
    lengths = constant_of(node.inputs[1]) if len(node.inputs) > 1 else None
    if lengths is None or node.attributes.get_int("keepdims", 1) != 1:
        return None
    if lengths.ndim == 1:
        return [int(size) for size in lengths]
    x, size = node.inputs[0], int(lengths)
    length = x.shape[_axis(node)] if x is not None and x.shape is not None else None
    if not isinstance(length, int):
        return None
    return [min(size, length - start) for start in range(0, length, size)]


def _axis(node: ir.Node) -> int:
    return node.attributes.get_int("axis", 0)


def _split(node: ir.Node, sizes: Sequence[int]) -> ir.Node:
    name = (node.name or "").replace("SplitToSequence", "Split")
    x = node.inputs[0]
    assert x is not None
    assert node.graph is not None
    return ir.node(
        "Split",
        [x, add_constant(node.graph, f"{name}:sizes", np.array(sizes, np.int64))],
        attributes={"axis": _axis(node)},
        outputs=[ir.Value(name=f"{name}:{i}", type=x.type) for i in range(len(sizes))],
        name=name,
        metadata_props=dict(node.metadata_props),
    )
