"""Reads and adds small constants of a graph, and never a weight; compares shapes that may have symbolic dimensions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from patch_compile.onnx_io.proto import STANDARD_DOMAINS

if TYPE_CHECKING:
    import numpy as np
    import onnx_ir as ir
    from numpy.typing import NDArray

# In elements. Shapes, axes and scalars are far smaller, and weights of real models far larger.
SMALL = 64

_LISTS = {"value_ints": "int64", "value_floats": "float32", "value_int": "int64", "value_float": "float32"}


def constant_of(value: ir.Value | None) -> NDArray[np.generic] | None:
    """Returns the array of a constant of at most `SMALL` elements, None for any other value.

    Weights have no data in an exported graph (`const_value` is None) or are lazy tensors. Both give None, unread.
    """
    if value is None or value.is_graph_input():
        return None
    producer = value.producer()
    if producer is not None:
        return _constant_node(producer)
    import onnx_ir as ir

    tensor = value.const_value
    if tensor is None or isinstance(tensor, ir.LazyTensor | ir.ExternalTensor) or tensor.size > SMALL:
        return None
    return tensor.numpy()


def _constant_node(node: ir.Node) -> NDArray[np.generic] | None:
    if node.op_type != "Constant" or node.domain not in STANDARD_DOMAINS:
        return None
    name, attribute = next(iter(node.attributes.items()))
    if name == "value":
        tensor = attribute.as_tensor()
        return tensor.numpy() if tensor.size <= SMALL else None
    if name in _LISTS:
        import numpy as np

        return np.asarray(attribute.value, dtype=_LISTS[name])
    return None


def add_constant(graph: ir.Graph, name: str, array: NDArray[Any]) -> ir.Value:
    """Returns a new initializer of a graph."""
    import onnx_ir as ir

    value = ir.val(name, const_value=ir.tensor(array, name=name))
    graph.register_initializer(value)
    return value


def scalar_of(value: ir.Value | None) -> float | int | None:
    """Returns the number in a constant of one element, None for any other value."""
    array = constant_of(value)
    return array.reshape(-1)[0].item() if array is not None and array.size == 1 else None


def same_known_shape(a: ir.Shape | None, b: ir.Shape | None) -> bool:
    """True if both shapes are known and all dimensions are equal. Symbolic dimensions are compared by name."""
    if a is None or b is None or len(a) != len(b):
        return False
    return all(x == y and (isinstance(x, int) or x.value is not None) for x, y in zip(a, b, strict=True))
