"""Loading a model folder never runs its Python code, and never asks for permission to do so."""

import ast
import json
import shlex
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

from masklearn.model.checkpoint import Checkpoint
from masklearn.model.models import load_model, meta_model
from masklearn.model.pretrained import (
    build_model,
    load_config,
    load_pretrained,
    load_tokenizer,
)
from tests.conftest import ModelMaker
from tests.own_code import claim_config, claim_tokenizer, nothing_runs
from tests.refusals import refused


def test_the_bait_is_live(make_model: ModelMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    """By default transformers runs the code that the other tests forbid."""
    path = make_model()
    claim_tokenizer(path)
    with pytest.raises(AssertionError, match="code of the model was run"), nothing_runs(path, monkeypatch):
        AutoTokenizer.from_pretrained(path)


def test_the_class_of_transformers_is_preferred(
    make_model: ModelMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make_model()
    claim_config(path)
    with nothing_runs(path, monkeypatch):
        config = load_config(path)
        assert config.auto_map
        for model in (
            meta_model(Checkpoint.open(path)),
            load_model(path),
            load_pretrained(AutoModelForCausalLM, path, torch.float16),
            build_model(AutoModelForCausalLM, config),
        ):
            assert type(model) is LlamaForCausalLM
        assert load_tokenizer(path)("the cat")["input_ids"] == [2, 3]


def test_models_unknown_to_transformers_are_refused(
    make_model: ModelMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make_model()
    claim_config(path, model_type="own")
    with nothing_runs(path, monkeypatch):
        for load in (
            load_config,
            lambda path: load_pretrained(AutoModelForCausalLM, path, torch.float32),
            load_model,
            lambda path: meta_model(Checkpoint.open(path)),
        ):
            with refused():
                load(path)


def test_tokenizers_unknown_to_transformers_are_refused(
    make_model: ModelMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make_model()
    claim_tokenizer(path)
    with nothing_runs(path, monkeypatch), refused():
        load_tokenizer(path)


DEEP = "[" * 100_000


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("tokenizer_config.json", {"model_max_length": "x"}),
        ("tokenizer_config.json", {"tokenizer_class": 4}),
        ("tokenizer_config.json", ["a list"]),
        ("tokenizer.json", {"model": {"type": "WordLevel", "vocab": {}, "unk_token": "<unk>"}}),
        ("tokenizer.json", {"decoder": {"type": "Nobody knows it"}}),
        ("tokenizer.json", {"added_tokens": 4}),
        ("tokenizer.json", DEEP),
        ("tokenizer_config.json", DEEP),
        ("config.json", DEEP),
        ("config.json", {"hidden_size": "wide"}),
        ("config.json", {"model_type": "nobody knows it"}),
        ("config.json", {"text_config": {}}),
    ],
)
def test_a_faulty_file_is_explained(make_model: ModelMaker, file: str, content: Any) -> None:
    path = make_model()
    kept = json.loads((path / file).read_text())
    text = json.dumps(kept | content if isinstance(content, dict) else content)
    (path / file).write_text(content if content == DEEP else text)
    with refused():
        (load_config if file == "config.json" else load_tokenizer)(path)


def test_a_missing_folder_is_explained(tmp_path: Path) -> None:
    for load in (load_config, load_tokenizer):
        with refused():
            load(tmp_path / "missing")


def test_a_huge_tokenizer_is_not_read(make_model: ModelMaker) -> None:
    path = make_model()
    with (path / "tokenizer.json").open("r+b") as file:
        file.truncate(2**40)  # takes no space on the disk
    with refused():
        load_tokenizer(path)


def test_an_adapter_does_not_replace_the_weights(make_model: ModelMaker) -> None:
    path = make_model()
    (path / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "/elsewhere"}))
    with refused():
        load_pretrained(AutoModelForCausalLM, path, torch.float32)


@pytest.mark.parametrize(
    ("files", "tokenizer"), [([], "m.name_or_path"), (["tokenizer.json"], '"$(touch x)\'s adapter"')]
)
def test_an_adapter_is_refused_with_the_command_that_merges(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: list[str], tokenizer: str
) -> None:
    path = Path("$(touch x)'s adapter")
    monkeypatch.chdir(tmp_path)
    path.mkdir()
    for name in ("adapter_config.json", "adapter_model.safetensors", *files):
        (path / name).write_text("{}")
    with refused() as caught:
        Checkpoint.of_config(path)
    *_, command, _ = caught.error.fix.split("`")
    *_, code = shlex.split(command)
    names = [one.value for one in ast.walk(ast.parse(code)) if isinstance(one, ast.Constant)]
    assert f"AutoTokenizer.from_pretrained({tokenizer})" in code and {str(path), f"{path}-merged"} <= {*names}
