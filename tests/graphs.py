"""Small ONNX graphs written as text, and their outputs by ONNX Runtime."""

import numpy as np
import onnx_ir as ir
import onnxruntime

# Graphs of one linear, in every form that lowerings take.
FORMS = {
    "matmul": "w = Transpose <perm = [1, 0]> (a) y = MatMul (x, w)",
    "matmul+bias": "w = Transpose <perm = [1, 0]> (a) p = MatMul (x, w) y = Add (p, bias)",
    "gemm+bias": "y = Gemm <transB = 1> (x, a, bias)",
}


def graph_of(text: str, opset: int = 23) -> ir.Model:
    return ir.from_onnx_text(f'<ir_version: 10, opset_import: ["": {opset}]>\n{text}')


def ops(model: ir.Model) -> list[str]:
    return [node.op_type for node in model.graph]


def outputs(model: ir.Model, **feed: np.ndarray) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(
        ir.to_proto(model).SerializeToString(), providers=["CPUExecutionProvider"]
    )
    return session.run(None, feed)


def linear(form, shape, dtype, opset=23):
    """A graph of one linear `a`, X [batch, sequence, K], or [rows, K] for Gemm; its weights have no data."""
    n, k = shape
    leading = "batch" if form.startswith("gemm") else "batch, sequence"
    model = graph_of(
        f"agraph ({dtype}[{leading}, {k}] x, {dtype}[{n}, {k}] a, {dtype}[{n}] bias) => ({dtype}[{leading}, {n}] y)"
        f" {{ {FORMS[form]} }}",
        opset,
    )
    for name, stored in (("a", "a.weight"), ("bias", "a.bias")):
        value = next(v for v in model.graph.inputs if v.name == name)
        model.graph.inputs.remove(value)
        value.name = stored
        if value.uses():
            model.graph.initializers[stored] = value
    return model
