"""Folds arithmetic on shapes, axes and scalars."""

from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator

from patch_compile.onnx_io.proto import STANDARD_DOMAINS
from patch_compile.passes.constants import SMALL, constant_of

_FOLDED = ("Add", "Cast", "Concat", "Identity", "Mul", "Neg", "Reshape", "Squeeze", "Sub", "Unsqueeze")


class FoldConstantsPass(ir.passes.InPlacePass):
    """`op(constants)` -> an initializer with its result, for small constants: TensorRT rejects computed axes.

    1. A Constant node of at most `SMALL` elements becomes an initializer.
    2. An operation of `_FOLDED` whose inputs are all small constants becomes an initializer with its result.
    The pass never reads weights (see `constants.constant_of`).
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Fold in one sweep, which is enough because nodes are in topological order."""
        graph = model.graph
        folded = 0
        for node in list(graph):
            result = _folded(node)
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


def _folded(node: ir.Node) -> NDArray[Any] | None:
    if node.domain not in STANDARD_DOMAINS or len(node.outputs) != 1:
        return None
    if node.op_type == "Constant":
        return constant_of(node.outputs[0])
    arrays = {str(value.name) if value else "": constant_of(value) for value in node.inputs}
    if node.op_type not in _FOLDED or any(array is None for array in arrays.values()):
        return None
    results: Any = ReferenceEvaluator(ir.to_proto(node)).run(None, arrays)
    result = np.asarray(results[0])
    return result if result.size <= SMALL else None
