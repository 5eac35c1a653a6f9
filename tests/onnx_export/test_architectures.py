import json
from pathlib import Path
from typing import Any

import pytest

from masklearn.model.checkpoint import Checkpoint
from patch_compile.errors import PatchCompileError
from patch_compile.onnx_export import load_config
from patch_compile.onnx_export.architectures import check_exportable
from tests.onnx_export.tiny import Exports


def write(path: Path, **settings: Any) -> Path:
    (path / "config.json").write_text(json.dumps(settings))
    return path


def test_unknown_architectures_list_the_covered(tmp_path: Path) -> None:
    with pytest.raises(
        PatchCompileError, match=r"'t5'.*not covered.*llama, mistral, qwen2, qwen3.*gpt2.*bert"
    ):
        load_config(write(tmp_path, model_type="t5"))


def test_base_model_checkpoints_have_no_head(exports: Exports, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    whole = exports.model_dir("llama")
    check_exportable(Checkpoint.open(whole))
    AutoModelForCausalLM.from_pretrained(whole).model.save_pretrained(tmp_path)
    with pytest.raises(PatchCompileError, match=r"holds no output head.*lm_head.weight is in none"):
        check_exportable(Checkpoint.open(tmp_path))


@pytest.mark.parametrize(
    ("model_type", "setting"),
    [
        ("bert", "is_decoder"),
        ("gpt2", "add_cross_attention"),
        ("gemma3_text", "use_bidirectional_attention"),
        ("falcon", "alibi"),
    ],
)
def test_model_changing_settings_are_refused(model_type: str, setting: str, tmp_path: Path) -> None:
    with pytest.raises(PatchCompileError, match=f"not covered with {setting} = true"):
        load_config(write(tmp_path, model_type=model_type, **{setting: True}))


def test_partial_rope_is_refused(tmp_path: Path) -> None:
    rope = {
        "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
        "full_attention": {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0},
    }
    with pytest.raises(PatchCompileError, match="'dynamic' are not covered"):
        load_config(write(tmp_path, model_type="gemma3_text", rope_parameters=rope))


def test_quantised_checkpoints_export_the_dense_graph(tmp_path: Path) -> None:
    config = {"model_type": "llama", "quantization_config": {"quant_method": "gptq", "bits": 4}}
    assert not hasattr(load_config(write(tmp_path, **config)), "quantization_config")


def test_length_dependent_rope_is_refused(tmp_path: Path) -> None:
    rope = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0}
    with pytest.raises(PatchCompileError, match="'dynamic' are not covered"):
        load_config(write(tmp_path, model_type="llama", rope_parameters=rope))


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


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "can't be read"),
        ("{", "is not JSON"),
        ("{}", "names no model_type"),
        ("[]", "names no model_type"),
    ],
)
def test_an_unreadable_config_is_refused(content: str | None, message: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    with pytest.raises(PatchCompileError, match=message):
        load_config(tmp_path)
