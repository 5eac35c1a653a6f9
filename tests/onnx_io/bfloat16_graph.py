"""A graph in bfloat16 with a weight and operations of several kinds."""

import ml_dtypes
import numpy as np
import onnx_ir as ir

from tests.graphs import graph_of

TEXT = """
    agraph (float[3, 8] x, bfloat16[4, 8] w) => (bfloat16[4, 3] t, bfloat16[3, 4] y) {
        narrow = Cast <to = 16> (x)
        wt = Transpose <perm = [1, 0]> (w)
        product = MatMul (narrow, wt)
        scaled = Mul (product, product)
        gate = Sigmoid (scaled)
        t = Transpose <perm = [1, 0]> (gate)
        y = Mul (scaled, gate)
    }"""
TYPED = ("narrow", "wt", "product", "scaled")  # "gate" has no type, like a value inside one torch operation


def model_with_weight() -> tuple[ir.Model, np.ndarray]:
    model = graph_of(TEXT)
    for node in model.graph:
        if node.outputs[0].name in TYPED:
            node.outputs[0].dtype = ir.DataType.BFLOAT16
    weight = np.random.default_rng(1).standard_normal((4, 8)).astype(ml_dtypes.bfloat16)
    value = model.graph.inputs.pop(1)
    value.const_value = ir.tensor(weight, name="w")
    model.graph.initializers["w"] = value
    return model, weight
