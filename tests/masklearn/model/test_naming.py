from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoModelForCausalLM, AutoModelForMaskedLM

from masklearn.model.checkpoint import Checkpoint
from masklearn.model.coverage import covered_linears
from masklearn.model.linears import read_linear
from masklearn.stream.blocks import stream_blocks
from tests.conftest import ModelMaker
from tests.families import write_family
from tests.masklearn.edits import edited_weights

WINDOWS = np.random.default_rng(0).integers(2, 40, (2, 7))


def last_hidden(path: Path) -> torch.Tensor:
    blocks = list(stream_blocks(Checkpoint.open(path), WINDOWS, "cpu"))
    return torch.cat(list(blocks[-1].hidden))


@pytest.mark.parametrize("model_type", ["llama", "gpt2", "opt", "gpt_neox", "mixtral"])
def test_base_model_checkpoints_have_no_prefix(make_model, tmp_path: Path, model_type: str) -> None:
    path, base = make_model(model_type), tmp_path / "base"
    AutoModelForCausalLM.from_pretrained(path).base_model.save_pretrained(base)
    named, bare = list(covered_linears(path).linears), list(covered_linears(base).linears)
    prefix = named[0].removesuffix(bare[0])
    assert prefix in ("model.", "transformer.", "gpt_neox.")
    assert [f"{prefix}{name}" for name in bare] == named
    assert all(f"{name}.weight" in Checkpoint.open(base) for name in bare)
    assert torch.equal(last_hidden(base), last_hidden(path))


@pytest.mark.parametrize("model_type", ["bert", "roberta", "distilbert", "mpnet"])
def test_an_encoder_below_a_head_has_a_prefix(make_model, tmp_path: Path, model_type: str) -> None:
    path, masked = make_model(model_type), tmp_path / "masked"
    AutoModelForMaskedLM.from_pretrained(path).save_pretrained(masked)
    bare, named = (list(covered_linears(model).linears) for model in (path, masked))
    assert named == [f"{model_type}.{name}" for name in bare]
    assert torch.equal(last_hidden(masked), last_hidden(path))


def rename(path: Path, changes: dict[str, str]) -> int:
    """Replaces parts of the names of tensors; returns the number of new names."""
    changed = 0
    with edited_weights(path) as tensors:
        for name in list(tensors):
            for old, new in changes.items():
                if old in name:
                    tensors[name.replace(old, new)] = tensors.pop(name)
                    changed += 1
    return changed


def test_old_names_of_norms(make_model: ModelMaker) -> None:
    """bert-base-uncased still names them gamma and beta."""
    path = make_model("bert")
    before = last_hidden(path)
    assert rename(path, {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}) == 2 * 7
    assert torch.equal(last_hidden(path), before)
    transformers = AutoModel.from_pretrained(path).eval()(torch.from_numpy(WINDOWS)).last_hidden_state
    torch.testing.assert_close(before, transformers, rtol=1e-4, atol=1e-5)


def test_the_other_layout_of_gemma3(make_model: ModelMaker) -> None:
    """Other tools may write the module names of transformers 5."""
    path = make_model("gemma3")
    before = last_hidden(path)
    assert rename(path, {"language_model.model.": "model.language_model."})
    assert next(iter(covered_linears(path).linears)).startswith("model.language_model.layers.0.")
    assert torch.equal(last_hidden(path), before)


def test_reading_a_weight_builds_no_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = Checkpoint.open(write_family(tmp_path / "model", "granite"))
    monkeypatch.setattr("transformers.AutoModelForCausalLM.from_config", None)
    assert read_linear(checkpoint, "model.layers.0.mlp.up_proj").shape == checkpoint.shape(
        "model.layers.0.mlp.up_proj.weight"
    )
