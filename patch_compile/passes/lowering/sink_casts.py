"""Moves activations between linears of an fp32 model to the 16-bit type, so that a PatchLinear can fuse them."""

from __future__ import annotations

import onnx_ir as ir

from patch_compile.onnx_io.proto import STANDARD_DOMAINS
from patch_compile.passes.linear_node import insert_node

_ACTIVATIONS = ("Gelu", "Sigmoid", "Mul")  # parts of GELU, SiLU and the product of gate and up


class SinkCastsPass(ir.passes.InPlacePass):
    """`Cast(op(Cast(y)))` -> `op(y)`: an activation between two linears computes in their 16-bit type.

    1. Conditions: every input of the operation is cast from the 16-bit type, and every reader of its result casts it back,
       possibly after other such operations. The input of the next linear is thus rounded in any case.
    2. A Cast to a wider type and back is removed, because it changes nothing.
    An unfused operation rounds its result once more. In a PatchLinear's epilogue it computes in fp32 and rounds once.
    """

    def __init__(self, dtype: ir.DataType) -> None:
        """dtype: type of the linears, FLOAT16 or BFLOAT16."""
        super().__init__()
        self._dtype = dtype

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Sweep once in graph order, where each result comes before its readers."""
        count = sum(self._sink(node) or self._leave_out(node) for node in list(model.graph))
        return ir.passes.PassResult(model, modified=count > 0)

    def _sink(self, node: ir.Node) -> bool:
        """Replace an activation by the same activation in the 16-bit type, with a Cast of its result back. Returns False if
        it stays."""
        inputs = [self._narrow(value) for value in node.inputs]
        narrow = [value for value in inputs if value is not None]
        graph, before = node.graph, node.outputs[0]
        if not _is_a(node, *_ACTIVATIONS) or len(narrow) < len(inputs) or not self._ends_narrow(before):
            return False
        assert graph is not None and before.dtype is not None
        sunk = ir.Node(node.domain, node.op_type, narrow, list(node.attributes.values()), name=node.name)
        result, dtype = sunk.outputs[0], before.dtype
        result.name, result.type, result.shape = (
            f"{before.name}/narrow",
            ir.TensorType(self._dtype),
            before.shape,
        )
        graph.insert_before(node, sunk)
        wide = insert_node(graph, node, "Cast", [result], f"{before.name}/wide", dtype, to=int(dtype))
        ir.convenience.replace_all_uses_with(before, wide)
        graph.remove(node, safe=True)
        return True

    def _leave_out(self, node: ir.Node) -> bool:
        """Remove a Cast back of a value that was cast. The first Cast is removed once it has no reader."""
        narrow = self._narrow(node.inputs[0]) if self._narrows(node) else None
        if narrow is None:
            return False
        ir.convenience.replace_all_uses_with(node.outputs[0], narrow)
        assert node.graph is not None
        node.graph.remove(node, safe=True)
        return True

    def _narrow(self, value: ir.Value | None) -> ir.Value | None:
        """Returns the 16-bit value that a value was cast from; None for any other value."""
        cast = value.producer() if value is not None else None
        before = cast.inputs[0] if cast is not None and _is_a(cast, "Cast") else None
        return before if before is not None and before.dtype == self._dtype else None

    def _narrows(self, node: ir.Node) -> bool:
        return _is_a(node, "Cast") and node.outputs[0].dtype == self._dtype

    def _ends_narrow(self, value: ir.Value) -> bool:
        """Returns True if a value has readers and all of them need it only in the 16-bit type."""
        if value.is_graph_output() or not value.uses():
            return False
        return all(self._narrows(use.node) or self._passes_on(use.node, value) for use in value.uses())

    def _passes_on(self, node: ir.Node, value: ir.Value) -> bool:
        """Returns True if a reader is also an activation, whose other inputs have the 16-bit type or will have it."""
        if not _is_a(node, *_ACTIVATIONS) or not self._ends_narrow(node.outputs[0]):
            return False
        return all(other is value or self._comes_narrow(other) for other in node.inputs)

    def _comes_narrow(self, value: ir.Value | None) -> bool:
        if self._narrow(value) is not None:
            return True
        maker = value.producer() if value is not None else None
        return (
            maker is not None and _is_a(maker, *_ACTIVATIONS) and all(map(self._comes_narrow, maker.inputs))
        )


def _is_a(node: ir.Node, *op_types: str) -> bool:
    return node.op_type in op_types and node.domain in STANDARD_DOMAINS
