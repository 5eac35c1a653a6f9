import json
from pathlib import Path
from typing import Any

import pytest

from masklearn.model.checkpoint import Checkpoint
from patch_compile.onnx_export import load_config
from patch_compile.onnx_export.architectures import check_exportable
from tests.onnx_export.tiny import Exports
from tests.refusals import refused


def write(path: Path, **settings: Any) -> Path:
    (path / "config.json").write_text(json.dumps(settings))
    return path


def test_base_model_checkpoints_have_no_head(exports: Exports, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    whole = exports.model_dir("llama")
    check_exportable(Checkpoint.open(whole))
    AutoModelForCausalLM.from_pretrained(whole).model.save_pretrained(tmp_path)
    with refused():
        check_exportable(Checkpoint.open(tmp_path))


DEFAULT = {"rope_type": "default", "rope_theta": 10000.0}
DYNAMIC = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0}
MIXED = {"sliding_attention": DEFAULT, "full_attention": DYNAMIC}


@pytest.mark.parametrize(
    ("model_type", "setting", "value"),
    [
        ("t5", "is_decoder", True),
        ("bert", "is_decoder", True),
        ("gpt2", "add_cross_attention", True),
        ("falcon", "alibi", True),
        ("gemma3_text", "use_bidirectional_attention", True),
        pytest.param("gemma3_text", "rope_parameters", MIXED, id="gemma3_text-partial rope"),
        pytest.param("llama", "rope_parameters", DYNAMIC, id="llama-dynamic rope"),
    ],
)
def test_what_changes_the_graph_is_refused(model_type: str, setting: str, value: Any, tmp_path: Path) -> None:
    with refused():
        load_config(write(tmp_path, model_type=model_type, **{setting: value}))


def test_quantised_checkpoints_export_the_dense_graph(tmp_path: Path) -> None:
    config = {"model_type": "llama", "quantization_config": {"quant_method": "gptq", "bits": 4}}
    assert not hasattr(load_config(write(tmp_path, **config)), "quantization_config")


def test_llama3_rope_is_taken(tmp_path: Path) -> None:
    rope = {
        "rope_type": "llama3",
        "rope_theta": 500000.0,
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
    assert (
        load_config(write(tmp_path, model_type="llama", rope_parameters=rope)).rope_parameters["factor"]
        == 8.0
    )


def test_odd_rope_types_are_left_to_transformers(tmp_path: Path) -> None:
    """It refuses them when it makes the model."""
    rope = {"rope_type": [0], "rope_theta": 10000.0}
    assert load_config(write(tmp_path, model_type="llama", rope_parameters=rope)).rope_parameters == rope


@pytest.mark.parametrize("content", [None, "{", "{}", "[]"])
def test_an_unreadable_config_is_refused(content: str | None, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    with refused():
        load_config(tmp_path)
