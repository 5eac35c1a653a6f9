"""Small ONNX graphs written as text, and their outputs by ONNX Runtime."""

import numpy as np
import onnx_ir as ir
import onnxruntime

__all__ = ["graph_of", "ops", "outputs"]


def graph_of(text: str, opset: int = 23) -> ir.Model:
    return ir.from_onnx_text(f'<ir_version: 10, opset_import: ["": {opset}]>\n{text}')


def ops(model: ir.Model) -> list[str]:
    return [node.op_type for node in model.graph]


def outputs(model: ir.Model, **feed: np.ndarray) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(
        ir.to_proto(model).SerializeToString(), providers=["CPUExecutionProvider"]
    )
    return session.run(None, feed)
