"""Folds arithmetic on shapes, axes and scalars."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from patch_compile.onnx_io.proto import STANDARD_DOMAINS
from patch_compile.passes.constants import SMALL, constant_of

Array = NDArray[Any]


def _reshape(_node: ir.Node, arrays: Sequence[Array]) -> Array:
    return arrays[0].reshape([int(n) for n in arrays[1]])


def _concat(node: ir.Node, arrays: Sequence[Array]) -> Array:
    return np.concatenate(arrays, axis=node.attributes["axis"].as_int())


def _cast(node: ir.Node, arrays: Sequence[Array]) -> Array:
    return arrays[0].astype(ir.DataType(node.attributes["to"].as_int()).numpy())


def _unsqueeze(_node: ir.Node, arrays: Sequence[Array]) -> Array:
    return np.expand_dims(arrays[0], tuple(int(axis) for axis in arrays[1]))


def _squeeze(_node: ir.Node, arrays: Sequence[Array]) -> Array:
    axes = tuple(int(axis) for axis in arrays[1]) if len(arrays) > 1 else None
    return np.squeeze(arrays[0], axes)


_EVALUATE: dict[str, Callable[[ir.Node, Sequence[Array]], Array]] = {
    "Add": lambda _, a: a[0] + a[1],
    "Cast": _cast,
    "Concat": _concat,
    "Identity": lambda _, a: a[0],
    "Mul": lambda _, a: a[0] * a[1],
    "Neg": lambda _, a: -a[0],
    "Reshape": _reshape,
    "Squeeze": _squeeze,
    "Sub": lambda _, a: a[0] - a[1],
    "Unsqueeze": _unsqueeze,
}


class FoldConstantsPass(ir.passes.InPlacePass):
    """`op(constants)` -> an initializer with its result, for small constants: TensorRT rejects computed axes.

    1. A Constant node of at most `SMALL` elements becomes an initializer.
    2. An operation of `_EVALUATE` whose inputs are all small constants becomes an initializer with its result.
    The pass never reads weights (see `constants.constant_of`).
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Fold in one sweep, which is enough because nodes are in topological order."""
        graph = model.graph
        folded = 0
        for node in list(graph):
            result = self._fold(node)
            if result is None or any(value.is_graph_output() for value in node.outputs):
                continue
            output = node.outputs[0]
            assert output.name is not None
            constant = ir.val(output.name, const_value=ir.tensor(result, name=output.name))
            output.replace_all_uses_with(constant)
            graph.remove(node, safe=True)
            graph.register_initializer(constant)
            folded += 1
        return ir.passes.PassResult(model, modified=folded > 0)

    def _fold(self, node: ir.Node) -> Array | None:
        if node.domain not in STANDARD_DOMAINS or len(node.outputs) != 1:
            return None
        if node.op_type == "Constant":
            return constant_of(node.outputs[0])
        evaluate = _EVALUATE.get(node.op_type)
        arrays = [constant_of(value) for value in node.inputs]
        if evaluate is None or any(array is None for array in arrays):
            return None
        result = np.asarray(evaluate(node, [array for array in arrays if array is not None]))
        return result if result.size <= SMALL else None
