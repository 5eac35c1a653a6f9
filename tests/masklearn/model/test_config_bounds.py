"""A config.json that no model has is one error that names the setting, and nothing is built for it."""

from pathlib import Path
from typing import Any

import pytest

from masklearn.model.config_bounds import check_config
from masklearn.model.config_shapes import describe_checkpoint
from masklearn.model.coverage import covered_linears
from tests.conftest import ModelMaker
from tests.masklearn.edits import edit_config
from tests.refusals import refused
from tests.work import at_most_calls

FAULTS: list[Any] = [
    {"num_hidden_layers": 10**6},
    pytest.param({"num_hidden_layers": 10**40}, id="num_hidden_layers of 41 digits"),
    {"num_hidden_layers": -1},
    {"num_hidden_layers": 2.0},
    {"num_hidden_layers": True},
    {"hidden_size": 0},
    {"hidden_size": "48"},
    {"hidden_size": float("inf")},
    {"intermediate_size": 2**40},
    {"num_attention_heads": 0},
    {"vocab_size": [40]},
    {"num_labels": 10**9},
    {"num_experts": 2000, "num_hidden_layers": 1000},
    {"dtype": {"a": 1}},
    {"layer_types": "full_attention"},
    {"eos_token_id": [1, "x"]},
    {"quantization_config": []},
    {"text_config": [1]},
    {"text_config": {"num_hidden_layers": 10**6}},
]


@pytest.mark.parametrize("settings", FAULTS)
def test_settings_that_no_model_has(settings: dict[str, Any]) -> None:
    with refused() as found:
        check_config(Path("config.json"), {"model_type": "llama", **settings})
    assert next(iter(settings)) in found.error.why


def test_settings_of_models() -> None:
    check_config(Path("config.json"), {})
    check_config(Path("config.json"), {"n_inner": None, "eos_token_id": [1, 2], "rope_theta": 1e6, "own": {}})
    large = {"num_hidden_layers": 126, "hidden_size": 16384, "vocab_size": 128256, "intermediate_size": 53248}
    check_config(Path("config.json"), large | {"max_position_embeddings": 10_485_760})
    check_config(Path("config.json"), {"text_config": {"num_hidden_layers": 61, "num_experts": 384}})


def test_a_million_layers_are_refused_at_once(make_model: ModelMaker) -> None:
    path = make_model()
    edit_config(path, num_hidden_layers=10**6)
    for opened in (covered_linears, lambda path: describe_checkpoint(path / "config.json")):
        with refused(), at_most_calls(100_000):
            opened(path)
        (path / "model.safetensors").unlink(missing_ok=True)
