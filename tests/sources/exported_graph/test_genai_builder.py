"""`compile --graph` takes what onnxruntime-genai's model builder exports."""

import importlib.util
import subprocess
import sys

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper

import patch_compile
from tests.sources.exported_graph.graphs import saved, weights_of
from tests.sources.exported_graph.test_compile import SIZES, masked, masks_of

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("onnxruntime_genai") is None, reason="onnxruntime-genai is not installed"
)
LAYERS, HEADS, HEAD_DIM = 2, 2, 32
# Where the builder puts the linears of a block.
PLACES = {
    "attn.qkv_proj": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "attn.o_proj": ("self_attn.o_proj",),
    "mlp.gate_proj": ("mlp.gate_proj",),
    "mlp.up_proj": ("mlp.up_proj",),
    "mlp.down_proj": ("mlp.down_proj",),
}


def test_its_graph_computes_the_same_with_patch_linears(make_model, tmp_path):
    """With GroupQueryAttention, prefill and a decode step, against its own graph with the weights masked by hand."""
    model = make_model(**SIZES)
    masks, exported = masks_of(model, tmp_path / "masks.safetensors"), tmp_path / "exported"
    command = [
        "-m",
        "onnxruntime_genai.models.builder",
        "-i",
        model,
        "-o",
        exported,
        "-p",
        "fp32",
        "-e",
        "cpu",
    ]
    subprocess.run([sys.executable, *command], check=True, capture_output=True)
    graph = exported / "model.onnx"
    made = patch_compile.compile(model, tmp_path / "out", mask=masks, graph=graph, lowering="plugin").onnx
    nodes = onnx.load(made, load_external_data=False).graph.node
    assert [node.domain for node in nodes].count(
        "patch"
    ) == LAYERS * 4  # q, k and v together, gate and up too
    left = [node.op_type for node in nodes if node.domain == "com.microsoft"]
    before = onnx.load(graph, load_external_data=False).graph.node
    assert left == [node.op_type for node in before if node.domain == "com.microsoft"]

    reference = saved(
        by_hand(onnx.load(graph), masked(weights_of(model), masks)), tmp_path / "reference.onnx"
    )
    expected, found = answers(reference), answers(made)
    dense = answers(graph)
    for one, other, whole in zip(expected, found, dense, strict=True):
        assert np.abs(one - other).max() < 0.02 * np.abs(one).max()
        assert np.abs(one - whole).max() > 0.1 * np.abs(one).max()


def by_hand(proto: onnx.ModelProto, weights: dict[str, np.ndarray]) -> onnx.ModelProto:
    held = {tensor.name: tensor for tensor in proto.graph.initializer}
    for layer in range(LAYERS):
        for place, names in PLACES.items():
            tensor = held[f"model.layers.{layer}.{place}.MatMul.weight"]
            weight = np.concatenate([weights[f"model.layers.{layer}.{name}.weight"] for name in names])
            tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(weight.T), tensor.name))
    return proto


def answers(path) -> list[np.ndarray]:
    """Logits of a prompt and of one token more."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [f"{layer}.{part}" for layer in range(LAYERS) for part in ("key", "value")]
    caches = {f"past_key_values.{name}": np.zeros((1, HEADS, 0, HEAD_DIM), np.float32) for name in names}
    found, past = [], 0
    for tokens in ([3, 5, 7, 11], [13]):
        past += len(tokens)
        feed = {"input_ids": np.array([tokens]), "attention_mask": np.ones((1, past), np.int64)}
        outputs = ["logits", *(f"present.{name}" for name in names)]
        logits, *present = session.run(outputs, feed | caches)
        caches = {f"past_key_values.{name}": cache for name, cache in zip(names, present, strict=True)}
        found.append(logits)
    return found
