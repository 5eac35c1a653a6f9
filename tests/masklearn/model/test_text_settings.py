"""The settings of a text model are the settings that transformers reads from config.json."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from transformers import AutoConfig

from masklearn.model.config_shapes import sizes_of
from masklearn.model.known_architectures import ARCHITECTURES
from masklearn.model.pretrained import load_config
from masklearn.model.text_settings import text_settings
from tests.conftest import ModelMaker

LISTED = sorted(name for name, row in ARCHITECTURES.items() if row.linears)
OPTIONAL = ("tie_word_embeddings", "head_dim", "num_key_value_heads")
REQUIRED = {"qwen3": OPTIONAL[1:3], "mistral": OPTIONAL[2:3], "qwen2": OPTIONAL[2:3]} | dict.fromkeys(
    ("gemma", "gemma2", "gemma3_text"), OPTIONAL[1:3]
)


def read(folder: Path, config: dict[str, Any]) -> Any:
    (folder / "config.json").write_text(json.dumps(config))
    return text_settings(folder)


@pytest.mark.parametrize("model_type", LISTED)
def test_settings_left_out_have_the_values_of_transformers(
    make_model: ModelMaker, tmp_path: Path, model_type: str
) -> None:
    config = json.loads((make_model(model_type) / "config.json").read_text())
    for name in OPTIONAL:
        if name not in REQUIRED.get(model_type, ()):
            config.pop(name, None)
    for name in ("num_key_value_heads", "intermediate_size"):  # the tiny models set these everywhere
        if not hasattr(AutoConfig.for_model(model_type), name):
            config.pop(name, None)
    ours = read(tmp_path, config)
    theirs = load_config(tmp_path).get_text_config()
    assert isinstance(ours, SimpleNamespace)
    assert sizes_of(ours) == sizes_of(theirs)
    for name in ("tie_word_embeddings", "max_position_embeddings", "vocab_size"):
        assert getattr(ours, name) == getattr(theirs, name)


@pytest.mark.parametrize("setting", ["num_key_value_heads", "head_dim", "vocab_size"])
def test_a_needed_setting_comes_from_transformers(
    make_model: ModelMaker, tmp_path: Path, setting: str
) -> None:
    config = json.loads((make_model("qwen3") / "config.json").read_text())
    del config[setting]
    assert getattr(read(tmp_path, config), setting) == getattr(load_config(tmp_path), setting)


def test_unusual_ropes_are_read_by_transformers(make_model: ModelMaker, tmp_path: Path) -> None:
    config = json.loads((make_model("llama") / "config.json").read_text())
    del config["rope_parameters"]
    found = read(tmp_path, config | {"rope_scaling": {"type": "dynamic", "factor": 2.0}})
    assert not isinstance(found, SimpleNamespace) and found.rope_parameters["rope_type"] == "dynamic"
