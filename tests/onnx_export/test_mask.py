import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
from onnx_ir.passes import common

from tests.onnx_export.tiny import Exports


def mask_of(model: ir.Model) -> onnxruntime.InferenceSession:
    """Cut the graph down to the first layer's mask, bool [batch, 1, sequence, total]."""
    graph = model.graph
    mask = next(node.inputs[3] for node in graph if node.op_type == "Attention")
    assert mask is not None
    graph.outputs.clear()
    graph.outputs.append(mask)
    common.RemoveUnusedNodesPass()(model)
    return onnxruntime.InferenceSession(
        ir.to_proto(model).SerializeToString(), providers=["CPUExecutionProvider"]
    )


def expected(mask: np.ndarray, sequence: int, window: int | None) -> np.ndarray:
    total = mask.shape[1]
    rows = np.zeros((len(mask), 1, sequence, total), bool)
    for batch, _, row, slot in np.ndindex(rows.shape):
        query = total - sequence + row
        near = window is None or query - slot < window
        rows[batch, 0, row, slot] = slot == query or (slot < query and near and bool(mask[batch, slot]))
    return rows


@pytest.mark.parametrize(("variant", "window"), [("llama", None), ("mistral-window", 6)])
@pytest.mark.parametrize(("sequence", "past"), [(9, 0), (1, 8), (3, 7)])
def test_tokens_read_real_tokens_before_them(
    variant: str, window: int | None, sequence: int, past: int, exports: Exports
) -> None:
    """Padding reads only itself, because a softmax over nothing would be 0 / 0."""
    attention_mask = np.ones((3, past + sequence), np.int64)
    attention_mask[1, :2] = attention_mask[2, :5] = 0
    session = mask_of(exports.graph(variant))
    values = {"input_ids": np.zeros((3, sequence), np.int64), "attention_mask": attention_mask}
    feed = {i.name: values[i.name] for i in session.get_inputs() if i.name in values}
    for tensor in session.get_inputs():
        if tensor.name.startswith("past"):
            feed[tensor.name] = np.zeros((3, tensor.shape[1], past, tensor.shape[3]), np.float16)
        elif tensor.name == "position_ids":
            feed[tensor.name] = np.zeros((3, sequence), np.int64)
    (mask,) = session.run(None, feed)
    assert np.array_equal(mask, expected(attention_mask, sequence, window))
