"""Removes nodes that return their input unchanged."""

import onnx_ir as ir

from patch_compile.onnx_io.proto import STANDARD_DOMAINS
from patch_compile.passes.constants import constant_of, same_known_shape


class RemoveNoopsPass(ir.passes.InPlacePass):
    """`op(x)` -> `x`, for operations that have no effect according to their types and shapes.

    1. Identity(x) -> x
    2. Cast(x, to=type of x) -> x
    3. Mul(x, 1) -> x, for a scalar 1 (the attention scaling of plain rotary embeddings)
    4. Slice(x) -> x, if every slice is the whole axis with step 1
    5. Transpose(x) -> x, for the identity permutation
    6. Reshape(x) or Expand(x) -> x, if every dimension stays the same
    A node between a graph input and a graph output stays.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Remove in one sweep, which is enough because nodes are in topological order."""
        modified = False
        for node in list(model.graph):
            source = _unchanged_input(node)
            if source is None or not _bypass(node.outputs[0], source):
                continue
            model.graph.remove(node, safe=True)
            modified = True
        return ir.passes.PassResult(model, modified=modified)


def _bypass(output: ir.Value, source: ir.Value) -> bool:
    graph = output.graph
    if not output.is_graph_output():
        output.replace_all_uses_with(source)
        return True
    if source.producer() is None or source.is_graph_output() or graph is None:
        return False
    # The name of a graph output is part of the interface, so the source takes it over.
    source.name, output.name = output.name, None
    output.replace_all_uses_with(source, replace_graph_outputs=True)
    return True


def _unchanged_input(node: ir.Node) -> ir.Value | None:
    if node.domain not in STANDARD_DOMAINS or not node.inputs or node.inputs[0] is None:
        return None
    source, output = node.inputs[0], node.outputs[0]
    match node.op_type:
        case "Identity":
            unchanged = True
        case "Cast":
            unchanged = source.dtype is not None and source.dtype == node.attributes["to"].as_int()
        case "Mul":
            factor = constant_of(node.inputs[1])  # one of shape [1, 1] would raise the rank of a vector
            unchanged = factor is not None and factor.ndim == 0 and factor.item() == 1
        case "Slice":
            unchanged = _whole_slice(node)
        case "Transpose":
            perm = node.attributes.get_ints("perm")
            unchanged = perm is not None and list(perm) == list(range(len(perm)))
        case "Reshape" | "Expand":
            unchanged = same_known_shape(source.shape, output.shape)
        case _:
            unchanged = False
    return source if unchanged else None


def _whole_slice(node: ir.Node) -> bool:
    source = node.inputs[0]
    assert source is not None
    starts, ends = constant_of(node.inputs[1]), constant_of(node.inputs[2])
    axes = constant_of(node.inputs[3]) if len(node.inputs) > 3 else None
    steps = constant_of(node.inputs[4]) if len(node.inputs) > 4 else None
    if starts is None or ends is None or axes is None or source.shape is None:
        return False
    if starts.any() or (len(node.inputs) > 4 and (steps is None or (steps != 1).any())):
        return False
    sizes = [source.shape[int(axis)] for axis in axes]
    # torch writes "to the end" as the largest int64; no real axis reaches 2**31 - 1.
    return all(
        end >= (size if isinstance(size, int) else 2**31 - 1) for size, end in zip(sizes, ends, strict=True)
    )
