from pathlib import Path

import numpy as np
import pytest

from masklearn.model.checkpoint import Checkpoint
from masklearn.model.linears import read_linear
from masklearn.model.naming import from_stored, stored_shape, to_stored
from tests.conftest import ModelMaker
from tests.families import write_family

WIDE = np.arange(6).reshape(2, 3)


@pytest.mark.parametrize("prefix", ["transformer.", ""])
def test_weights_of_conv1d_lie_the_other_way_round(make_model: ModelMaker, prefix: str) -> None:
    checkpoint, name = Checkpoint.open(make_model("gpt2")), f"{prefix}h.0.attn.c_attn.weight"
    assert stored_shape(checkpoint, name, (2, 3)) == (3, 2)
    assert np.array_equal(from_stored(checkpoint, name, WIDE), WIDE.T)
    assert np.array_equal(from_stored(checkpoint, name, to_stored(checkpoint, name, WIDE)), WIDE)


@pytest.mark.parametrize(
    ("model_type", "name"),
    [
        ("gpt2", "lm_head.weight"),
        ("gpt2", "transformer.wte.weight"),
        ("gpt2", "transformer.h.0.attn.bias"),
        ("opt", "model.decoder.layers.0.fc1.weight"),
    ],
)
def test_everything_else_lies_as_it_is(make_model: ModelMaker, model_type: str, name: str) -> None:
    checkpoint = Checkpoint.open(make_model(model_type))
    assert stored_shape(checkpoint, name, (2, 3)) == (2, 3)
    assert from_stored(checkpoint, name, WIDE) is to_stored(checkpoint, name, WIDE) is WIDE


def test_vectors_stay(make_model: ModelMaker) -> None:
    checkpoint, name = Checkpoint.open(make_model("gpt2")), "transformer.h.0.ln_1.weight"
    assert stored_shape(checkpoint, name, (3,)) == (3,)


def test_reading_a_weight_builds_no_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = Checkpoint.open(write_family(tmp_path / "model", "granite"))
    monkeypatch.setattr("transformers.AutoModelForCausalLM.from_config", None)
    assert read_linear(checkpoint, "model.layers.0.mlp.up_proj").shape == checkpoint.shape(
        "model.layers.0.mlp.up_proj.weight"
    )
