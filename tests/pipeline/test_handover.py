"""OUT works with other tools: plain ONNX Runtime, Netron, transformers."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from transformers import AutoTokenizer, GenerationConfig

from tests.builds import TINY, build
from tests.conftest import texts_in, write_model

TEMPLATE = "{% for m in messages %}{{ m.content }} {% endfor %}"


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("handover")
    sizes = {"hidden_size": 128, "intermediate_size": 192, "num_hidden_layers": 2}
    model = write_model(root / "model", "llama", **sizes)
    (model / "generation_config.json").write_text(
        json.dumps({"eos_token_id": [3, 4], "temperature": 0.6, "do_sample": True})
    )
    (model / "chat_template.jinja").write_text(TEMPLATE)
    build({"model": model, "out": root / "out", "ratio": 0.4, **texts_in(root), **TINY})
    return root / "out"


def test_what_belongs_to_the_model_travels_with_it(out: Path) -> None:
    generation = GenerationConfig.from_pretrained(out / "model")
    assert (generation.eos_token_id, generation.temperature) == ([3, 4], 0.6)
    tokenizer = AutoTokenizer.from_pretrained(out / "model")
    assert tokenizer.chat_template == TEMPLATE
    assert tokenizer.decode(tokenizer("the cat sat").input_ids) == "the cat sat"


def test_plain_onnx_runtime_runs_it(out: Path) -> None:
    """It needs no custom operator and no option."""
    session = onnxruntime.InferenceSession(out / "onnx/model.onnx", providers=["CPUExecutionProvider"])
    feed: dict[str, Any] = {
        "input_ids": np.array([[3, 4, 5]]),
        "attention_mask": np.ones((1, 3), np.int64),
        "position_ids": np.arange(3)[None],
    }
    for given in session.get_inputs():
        if given.name.startswith("past_key_values."):
            feed[given.name] = np.zeros((1, given.shape[1], 0, given.shape[3]), np.float16)
    logits, *present = session.run(None, feed)
    assert logits.shape[:2] == (1, 1) and np.isfinite(logits).all()
    assert all(tensor.shape[2] == 3 for tensor in present)


def test_a_viewer_shows_the_modules(out: Path) -> None:
    """Node names are unique, and a PatchLinear has the name of its linear, which also prefixes its weights."""
    graph = onnx.load(str(out / "onnx/model.onnx"), load_external_data=False).graph
    names = [node.name for node in graph.node]
    assert all(names) and len(names) == len(set(names))
    packed = [node for node in graph.node if node.op_type == "PatchLinear"]
    assert packed
    for node in packed:
        assert node.name.startswith("model.layers."), node.name
        assert all(given.startswith(f"{node.name}.") for given in node.input[1:4]), list(node.input)
