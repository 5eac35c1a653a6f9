import json
from pathlib import Path
from typing import Any

import pytest

from masklearn.checkpoint import Checkpoint
from masklearn.errors import PatchCompileError
from patch_compile.export import load_config
from patch_compile.export.architectures import check_exportable
from tests.export.tiny import Exports


def write(path: Path, **settings: Any) -> Path:
    (path / "config.json").write_text(json.dumps(settings))
    return path


def test_an_uncovered_architecture_is_refused_with_the_covered_ones(tmp_path: Path) -> None:
    with pytest.raises(PatchCompileError, match=r"'gpt2'.*not covered.*llama, mistral, qwen2, qwen3"):
        load_config(write(tmp_path, model_type="gpt2"))


def test_names_without_the_prefix_of_the_graph_are_refused(exports: Exports, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    named = exports.model_dir("llama")
    check_exportable(Checkpoint.open(named))
    AutoModelForCausalLM.from_pretrained(named).model.save_pretrained(tmp_path)
    with pytest.raises(PatchCompileError, match=r"not named as .*none begins with 'model.layers.'"):
        check_exportable(Checkpoint.open(tmp_path))


def test_a_quantized_checkpoint_is_refused(tmp_path: Path) -> None:
    config = {"model_type": "llama", "quantization_config": {"quant_method": "gptq", "bits": 4}}
    with pytest.raises(PatchCompileError, match="is quantized"):
        load_config(write(tmp_path, **config))


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
        (None, "Can't read"),
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
