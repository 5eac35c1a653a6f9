"""Turns a bf16 graph into an fp32 graph that rounds like bf16, for ONNX Runtime on a CPU.

ONNX Runtime's CPU provider has no bf16 kernel for MatMul, Attention or RMSNormalization and refuses the bf16 graph. It
runs this copy instead. Builds still compile and contain the bf16 graph.
"""

import numpy as np
import onnx_ir as ir

from patch_compile.onnx_io.write import widen
from patch_compile.packing.function import DOMAIN

_BF16 = ir.DataType.BFLOAT16
_FLOAT = ir.DataType.FLOAT
_ROUNDED = "patch_compile.rounded_to_bfloat16"  # key of a value that a rounding Cast made
# Operations that only move elements: their results are already bf16 numbers and need no rounding.
_MOVES = frozenset(
    (
        "Concat",
        "Expand",
        "Gather",
        "Identity",
        "Reshape",
        "Slice",
        "Split",
        "Squeeze",
        "Transpose",
        "Unsqueeze",
    )
)


class EmulateBfloat16Pass(ir.passes.FunctionalPass):
    """Make a copy of a model where every bf16 value is fp32, rounded to bf16 after the operation that computes it.

    1. bf16 inputs, outputs and values become fp32. bf16 weights become fp32 too, exactly, when they are read.
    2. After each operation that computes a bf16 value (and does not only move it), Casts to bf16 and back round it once,
       to nearest even. A bf16 kernel with fp32 accumulation gives the same result.
    3. Cast(to=bf16) becomes Cast(to=fp32), followed by rule 2.
    4. Packed weights of PatchLinear stay bf16, because its function widens them itself.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Rewrite a clone, which shares its tensors with the original."""
        copy = model.clone()
        graph = copy.graph
        for value in list(graph.initializers.values()):
            if value.dtype == _BF16 and not _is_packed(value):
                widen(value)
        for value in graph.inputs:
            _set_float(value)
        for node in list(graph):
            _widen_node(graph, node)
        return ir.passes.PassResult(copy, modified=True)

    def ensures(self, model: ir.Model) -> None:
        """Only rounding Casts and PatchLinear read or make bf16."""
        for node in model.graph:
            values = [v for v in (*node.inputs, *node.outputs) if v is not None and v.dtype == _BF16]
            if values and node.op_type != "Cast" and node.domain != DOMAIN:
                raise ir.passes.PostconditionError(f"{node.name} still works on bf16")


def _is_packed(value: ir.Value) -> bool:
    return bool(value.uses()) and all(use.node.domain == DOMAIN for use in value.uses())


def _set_float(value: ir.Value) -> None:
    if value.dtype == _BF16:
        value.type = ir.TensorType(_FLOAT)


def _widen_node(graph: ir.Graph, node: ir.Node) -> None:
    to = node.attributes.get("to")
    narrows = node.op_type == "Cast" and to is not None and to.as_int() == _BF16
    if narrows:
        node.attributes["to"] = ir.AttrInt64("to", int(_FLOAT))
    constant = node.attributes.get("value") if node.op_type == "Constant" else None
    if constant is not None and constant.as_tensor().dtype == _BF16:
        array = constant.as_tensor().numpy().astype(np.float32)
        node.attributes["value"] = ir.AttrTensor("value", ir.tensor(array))
    for output in list(node.outputs):
        made = narrows or _makes_bfloat16(node, output)
        _set_float(output)
        if made and node.op_type not in _MOVES and node.op_type != "Constant":
            _round(graph, node, output)


def _makes_bfloat16(node: ir.Node, output: ir.Value) -> bool:
    """True if an output was bf16 in the original graph.

    torch's exporter leaves the values inside its composite operations untyped. Such a value counts as bf16 if an input
    of its node is marked as rounded. (The inputs themselves are fp32 by now.)
    """
    if output.dtype is not None:
        return output.dtype == _BF16
    return any(value is not None and value.meta.get(_ROUNDED, False) for value in node.inputs)


def _round(graph: ir.Graph, node: ir.Node, output: ir.Value) -> None:
    """Insert the rounding after `output`. The rounded value takes over its name, readers and place in the outputs."""
    narrow = ir.node("Cast", [output], attributes={"to": int(_BF16)}, name=f"{output.name}/to_bfloat16")
    narrow.outputs[0].type, narrow.outputs[0].shape = ir.TensorType(_BF16), output.shape
    wide = ir.node(
        "Cast", [narrow.outputs[0]], attributes={"to": int(_FLOAT)}, name=f"{output.name}/to_float"
    )
    rounded = wide.outputs[0]
    rounded.type, rounded.shape = ir.TensorType(_FLOAT), output.shape
    rounded.meta[_ROUNDED] = True
    readers = [use for use in output.uses() if use.node is not narrow]
    for use in readers:
        use.node.replace_input_with(use.idx, rounded)
    if output.is_graph_output():
        graph.outputs[graph.outputs.index(output)] = rounded
    rounded.name, output.name = output.name, f"{output.name}/exact"
    graph.insert_after(node, [narrow, wide])
