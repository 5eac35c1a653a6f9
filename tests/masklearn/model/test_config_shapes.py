"""A checkpoint described only by its config has the linears and the weights of the downloaded checkpoint, and its settings
are the settings that transformers reads."""

import json
import math
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from transformers import AutoConfig

from masklearn.model.architectures import ARCHITECTURES
from masklearn.model.checkpoint import Checkpoint
from masklearn.model.config_shapes import describe_checkpoint, sizes_of, text_settings
from masklearn.model.coverage import covered_linears, covered_linears_of
from masklearn.model.pretrained import load_config
from tests.conftest import ModelMaker
from tests.masklearn.architectures import every
from tests.masklearn.edits import edited_weights
from tests.refusals import refused


def weights(checkpoint: Checkpoint) -> int:
    return sum(math.prod(checkpoint.shape(name)) for name in checkpoint.names())


@pytest.mark.parametrize("model_type", every())
def test_the_config_tells_every_linear_and_weight(
    make_model: ModelMaker, tmp_path: Path, model_type: str
) -> None:
    downloaded = make_model(model_type)
    shutil.copy(downloaded / "config.json", tmp_path / "config.json")
    described, real = describe_checkpoint(tmp_path / "config.json"), Checkpoint.open(downloaded)
    ours, theirs = covered_linears_of(described), covered_linears_of(real)
    assert [*ours.linears.values()] == [*theirs.linears.values()]
    assert [*ours.skipped.values()] == [*theirs.skipped.values()]
    least = 0.5 if ARCHITECTURES[model_type].linears else 1  # the table has no norms, biases and positions
    assert least <= weights(described) / weights(real) <= 1
    assert {described.entry(name).dtype for name in described.names()} == {
        real.entry(name).dtype for name in real.names()
    }


def test_a_folder_with_weights_is_opened_with_them(make_model: ModelMaker) -> None:
    model = make_model()
    assert describe_checkpoint(model).files() == Checkpoint.open(model).files()
    (model / "model.safetensors").write_bytes(b"cut")
    with refused():
        describe_checkpoint(model)


def test_an_unknown_architecture_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "mamba"}))
    with refused():
        describe_checkpoint(tmp_path)
    with refused():
        describe_checkpoint(tmp_path / "none")


@pytest.mark.parametrize(
    ("about", "kept"),
    [
        ({"quant_method": "gptq", "bits": 4, "group_size": 64, "sym": True}, True),
        ({"quant_method": "awq", "bits": 4, "group_size": 64, "zero_point": False, "version": "gemm"}, True),
        ({"quant_method": "awq", "bits": 4, "group_size": 64, "zero_point": True, "version": "gemm"}, False),
        ({"quant_method": "awq", "group_size": 64, "zero_point": True, "modules_to_not_convert": ["v_proj"]}, False),
    ],
)  # fmt: skip
def test_a_quantised_config_tells_every_type(
    make_model: ModelMaker, tmp_path: Path, about: dict[str, Any], kept: bool
) -> None:
    config = json.loads((make_model(hidden_size=128, intermediate_size=192) / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"quantization_config": about}))
    found = describe_checkpoint(tmp_path)
    linears = covered_linears_of(found).linears
    assert set(found.grids) == (set(linears) if kept else set())
    assert bool(found.dequantised) != kept and {f"{name}.weight" for name in linears} <= set(found.names())
    with refused():
        found.read(f"{next(iter(linears))}.weight")


LISTED = sorted(kind for kind, row in ARCHITECTURES.items() if row.linears)


def check(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The linears that the table lists are those of the model that transformers builds."""
    built = covered_linears(path)
    with monkeypatch.context() as patched:
        patched.setattr("masklearn.model.coverage.is_installed", lambda _: False)
        listed = covered_linears(path)
    assert list(listed.linears.items()) == list(built.linears.items())
    assert list(listed.skipped.items()) == list(built.skipped.items())


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("model_type", every(LISTED))
def test_every_architecture_of_the_table(
    make_model: ModelMaker, monkeypatch: pytest.MonkeyPatch, model_type: str, tied: bool
) -> None:
    more = {} if ARCHITECTURES[model_type].encoder else {"tie_word_embeddings": tied}
    check(make_model(model_type, **more), monkeypatch)


def test_a_pooler_that_the_checkpoint_lacks(make_model: ModelMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make_model("bert")
    with edited_weights(path) as weights:
        for name in [name for name in weights if "pooler" in name]:
            del weights[name]
    check(path, monkeypatch)


def test_a_missing_weight_is_named(make_model: ModelMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make_model()
    with edited_weights(path) as weights:
        del weights["model.layers.0.mlp.up_proj.weight"]
    monkeypatch.setattr("masklearn.model.coverage.is_installed", lambda _: False)
    with refused():
        covered_linears(path)


def test_experts_need_the_packages_that_build_the_model(
    make_model: ModelMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make_model("mixtral")
    monkeypatch.setattr("masklearn.model.coverage.is_installed", lambda _: False)
    monkeypatch.setattr("masklearn.base.extras.is_installed", lambda package: package != "torch")
    with refused():
        covered_linears(path)


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
