"""Replaces the computed shape of a Reshape by a constant."""

import numpy as np
import onnx_ir as ir

from patch_compile.onnx_io.proto import STANDARD_DOMAINS
from patch_compile.passes.constants import add_constant


class FixReshapesPass(ir.passes.InPlacePass):
    """`Reshape(x, computed target)` -> `Reshape(x, constant)`; the arithmetic on sizes is left without readers.

    1. A known output dimension is written as its size.
    2. A symbolic output dimension that equals the input's dimension at the same axis is written as 0 (copy).
    3. A single other symbolic output dimension is written as -1. With several, the node stays unchanged.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Rewrite every Reshape whose input and output shapes are known."""
        modified = False
        for node in model.graph:
            if node.op_type != "Reshape" or node.domain not in STANDARD_DOMAINS:
                continue
            target = _target(node)
            if target is None or (node.inputs[1] is not None and node.inputs[1].const_value is not None):
                continue
            shape = add_constant(model.graph, f"{node.name}:shape", np.array(target, np.int64))
            node.replace_input_with(1, shape)
            node.attributes.pop("allowzero", None)
            modified = True
        return ir.passes.PassResult(model, modified=modified)


def _target(node: ir.Node) -> list[int] | None:
    source, shape = node.inputs[0], node.outputs[0].shape
    if source is None or source.shape is None or shape is None:
        return None
    target: list[int] = []
    for axis, dim in enumerate(shape):
        if isinstance(dim, int):
            if dim == 0:
                return None
            target.append(dim)
        elif dim.value is not None and axis < len(source.shape) and source.shape[axis] == dim:
            target.append(0)
        else:
            target.append(-1)
    return target if target.count(-1) <= 1 else None
