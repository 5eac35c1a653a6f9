"""Linears that are listed without torch are those of the model that transformers builds."""

from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from masklearn.base.errors import MaskLearnError
from masklearn.model.architectures import ARCHITECTURES
from masklearn.model.coverage import Coverage, covered_linears
from tests.conftest import ModelMaker
from tests.masklearn.architectures import every

LISTED = sorted(kind for kind, row in ARCHITECTURES.items() if row.linears)


def both(
    path: Path, monkeypatch: pytest.MonkeyPatch, **patterns: tuple[str, ...]
) -> tuple[Coverage, Coverage]:
    built = covered_linears(path, **patterns)
    with monkeypatch.context() as here:
        here.setattr("masklearn.model.coverage.is_installed", lambda _: False)
        listed = covered_linears(path, **patterns)
    return listed, built


def check(listed: Coverage, built: Coverage) -> None:
    assert list(listed.linears.items()) == list(built.linears.items())
    assert list(listed.skipped.items()) == list(built.skipped.items())


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("model_type", every(LISTED))
def test_every_architecture_of_the_table(
    make_model: ModelMaker, monkeypatch: pytest.MonkeyPatch, model_type: str, tied: bool
) -> None:
    more = {} if ARCHITECTURES[model_type].encoder else {"tie_word_embeddings": tied}
    check(*both(make_model(model_type, **more), monkeypatch))


def test_the_table_lists_all_but_experts_and_images() -> None:
    assert set(ARCHITECTURES) - set(LISTED) == {"gemma3", "mixtral", "qwen2_moe", "qwen3_moe"}


@pytest.mark.parametrize("model_type", ["llama", "opt", "bert"])
def test_patterns_choose_among_the_same_names(
    make_model: ModelMaker, monkeypatch: pytest.MonkeyPatch, model_type: str
) -> None:
    path = make_model(model_type, **({} if model_type == "bert" else {"tie_word_embeddings": False}))
    check(*both(path, monkeypatch, include=("*",), exclude=("re:.*k.*proj",) if model_type != "bert" else ()))


def test_a_pooler_that_the_checkpoint_lacks(make_model: ModelMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make_model("bert")
    weights = load_file(path / "model.safetensors")
    kept = {name: weight for name, weight in weights.items() if "pooler" not in name}
    save_file(kept, path / "model.safetensors", {"format": "pt"})
    check(*both(path, monkeypatch))


def test_a_missing_weight_is_named(make_model: ModelMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make_model()
    weights = load_file(path / "model.safetensors")
    del weights["model.layers.0.mlp.up_proj.weight"]
    save_file(weights, path / "model.safetensors", {"format": "pt"})
    monkeypatch.setattr("masklearn.model.coverage.is_installed", lambda _: False)
    with pytest.raises(MaskLearnError, match=r"has no model\.layers\.0\.mlp\.up_proj\.weight"):
        covered_linears(path)


def test_experts_need_the_packages_that_build_the_model(
    make_model: ModelMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make_model("mixtral")
    monkeypatch.setattr("masklearn.model.coverage.is_installed", lambda _: False)
    monkeypatch.setattr("masklearn.base.extras.is_installed", lambda package: package != "torch")
    with pytest.raises(MaskLearnError, match=r"mixtral needs packages .* torch.*'patch-compile\[build\]'"):
        covered_linears(path)
