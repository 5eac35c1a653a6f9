"""Readers of a model folder: its JSON files, one after the other, beside others that are sound."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

from masklearn.base.safe_read import parse_json
from masklearn.model.checkpoint import Checkpoint
from masklearn.model.pretrained import load_tokenizer
from patch_compile.inspection.folders import inspect_checkpoint
from patch_compile.pipeline.plan import plan
from patch_compile.recipe import Recipe
from patch_compile.runtime.model_configs import read_model_configs
from tests.attacks.fuzz.dense import write_dense
from tests.attacks.fuzz.mutations import change_json
from tests.attacks.fuzz.reader import CORPUS, Reader, placed


def _json(data: bytes, folder: Path) -> None:
    parse_json(data)


def _config_alone(data: bytes, folder: Path) -> None:
    model = folder / "config-alone"
    model.mkdir(exist_ok=True)
    placed(model, "config.json", data)
    plan(Recipe.parse({"model": model, "ratio": 0.4, "target": "a6000"}))


def _config(data: bytes, folder: Path) -> None:
    inspect_checkpoint(placed(_model(folder, "config"), "config.json", data).parent)


def _index(data: bytes, folder: Path) -> None:
    model = _model(folder, "index")
    checkpoint = Checkpoint.open(placed(model, "model.safetensors.index.json", data).parent)
    assert {file.parent for file in checkpoint.files()} == {model.resolve()}


def _tokenizer(data: bytes, folder: Path) -> None:
    load_tokenizer(placed(_model(folder, "tokenizer"), "tokenizer.json", data).parent)


def _tokenizer_config(data: bytes, folder: Path) -> None:
    model = _model(folder, "tokenizer-config")
    sound = CORPUS / "tokenizer" / "word-level.json"
    placed(model, "tokenizer.json", sound.read_bytes())
    load_tokenizer(placed(model, "tokenizer_config.json", data).parent)


def _generation(data: bytes, folder: Path) -> None:
    """Read the settings of generating as `open_generator` does, but without a decoder."""
    model = folder / "generation"
    model.mkdir(exist_ok=True)
    path = placed(model, "generation_config.json", data)
    found = read_model_configs(path.parent)
    assert all(isinstance(token, int) for token in found.end_tokens(SimpleNamespace(eos_token_id=1)))


def _generation_of_config(data: bytes, folder: Path) -> None:
    model = folder / "generation-config"
    model.mkdir(exist_ok=True)
    found = read_model_configs(placed(model, "config.json", data).parent)
    assert found.positions is None or found.positions > 0
    assert found.window is None or found.window >= 0
    assert all(isinstance(token, int) for token in found.end_tokens(SimpleNamespace(eos_token_id=1)))


def _model(folder: Path, name: str) -> Path:
    model = folder / name
    return model if model.is_dir() else write_dense(model)


READERS = (
    Reader("json", _json, change_json, refuses=(ValueError,)),
    Reader("config-alone", _config_alone, change_json),
    Reader("config", _config, change_json),
    Reader("index", _index, change_json),
    Reader("generation", _generation, change_json),
    Reader("generation-of-config", _generation_of_config, change_json),
    Reader("tokenizer", _tokenizer, change_json),
    Reader("tokenizer-config", _tokenizer_config, change_json),
)
