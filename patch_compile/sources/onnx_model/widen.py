"""Turns a model of 16-bit types into an fp32 model without roundings, which pruned and hybrid model both approximate."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

__all__ = ["WidenPass"]

_FLOAT = ir.DataType.FLOAT
_NARROW = (ir.DataType.FLOAT16, ir.DataType.BFLOAT16)
_TYPE_ATTRIBUTES = ("to", "dtype")  # attributes of Cast, and of operators that create values of a given type


class WidenPass(ir.passes.InPlacePass):
    """fp16 and bf16 -> fp32 in every value, constant and attribute, including subgraphs.

    Weights are converted when they are read.

    1. A Cast to a 16-bit type becomes a Cast to fp32, so that nothing is rounded.
    2. The types of inputs and outputs change too.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Widen inputs, initializers and nodes."""
        for value in (*model.graph.inputs, *model.graph.initializers.values()):
            _widen_value(value)
        for node in ir.traversal.RecursiveGraphIterator(model.graph):
            _widen_attributes(node)
            for value in node.outputs:
                _widen_value(value)
        return ir.passes.PassResult(model, modified=True)


def _widen_value(value: ir.Value) -> None:
    if value.dtype not in _NARROW:
        return
    value.type = ir.TensorType(_FLOAT)
    tensor = value.const_value
    if tensor is not None:
        value.const_value = ir.LazyTensor(
            lambda: ir.Tensor(tensor.numpy().astype(np.float32), name=value.name),
            dtype=_FLOAT,
            shape=ir.Shape(tensor.shape.numpy()),
            name=value.name,
            cache=False,
        )


def _widen_attributes(node: ir.Node) -> None:
    for name, attribute in list(node.attributes.items()):
        if attribute.type == ir.AttributeType.TENSOR and attribute.as_tensor().dtype in _NARROW:
            array = attribute.as_tensor().numpy().astype(np.float32)
            node.attributes[name] = ir.AttrTensor(name, ir.Tensor(array))
        elif name in _TYPE_ATTRIBUTES and attribute.value in [int(dtype) for dtype in _NARROW]:
            node.attributes[name] = ir.AttrInt64(name, int(_FLOAT))
