"""Reads and adds small constants of a graph, and never a weight; compares shapes that may have symbolic dimensions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import onnx_ir as ir
    from numpy.typing import NDArray

# In elements. Shapes, axes and scalars are far smaller, and weights of real models far larger.
SMALL = 64


def constant_of(value: ir.Value | None) -> NDArray[np.generic] | None:
    """Returns the array of a constant of at most `SMALL` elements, None for any other value.

    Weights have no data in an exported graph (`const_value` is None) or are lazy tensors. Both give None, unread.
    """
    if value is None or value.is_graph_input():
        return None
    import onnx_ir as ir

    tensor = ir.convenience.get_const_tensor(value)
    if tensor is None or isinstance(tensor, ir.LazyTensor | ir.ExternalTensor) or tensor.size > SMALL:
        return None
    return None if tensor.dtype.is_string() else tensor.numpy()


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


def with_last(shape: ir.Shape | None, size: int) -> ir.Shape | None:
    """Returns a shape with `size` in the last dimension; None if the shape is unknown."""
    import onnx_ir as ir

    return None if shape is None else ir.Shape([*shape[:-1], size])


def same_known_shape(a: ir.Shape | None, b: ir.Shape | None) -> bool:
    """True if both shapes are known and all dimensions are equal. Symbolic dimensions are compared by name."""
    if a is None or b is None or len(a) != len(b):
        return False
    return all(x == y and (isinstance(x, int) or x.value is not None) for x, y in zip(a, b, strict=True))
