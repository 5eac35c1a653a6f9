"""A model that reads its weights in each run computes what the whole model computes."""

import numpy as np
import pytest
import torch

from masklearn.model.checkpoint import Checkpoint
from masklearn.model.linears import read_tensor
from masklearn.model.models import load_model
from masklearn.model.streamed import streamed_model
from tests.conftest import ModelMaker
from tests.masklearn.architectures import LANGUAGE_MODELS, every
from tests.masklearn.edits import edit_config
from tests.refusals import refused


def read_of(checkpoint: Checkpoint):
    return lambda name, shape: read_tensor(checkpoint, name, shape)


@pytest.mark.parametrize("model_type", every(LANGUAGE_MODELS))
def test_runs_give_the_whole_models_logits(make_model: ModelMaker, model_type: str) -> None:
    path = make_model(model_type)
    checkpoint = Checkpoint.open(path)
    streamed, whole = streamed_model(checkpoint, read_of(checkpoint)), load_model(path)
    with torch.no_grad():
        for length in (5, 9):
            ids = torch.from_numpy(np.random.default_rng(length).integers(2, 30, (2, length)))
            mine, theirs = streamed(ids).logits, whole(ids).logits
            torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-5 * float(theirs.abs().max()))
    assert all(parameter.is_meta for parameter in streamed.parameters())


def test_sixteen_bits_are_computed_in(make_model: ModelMaker) -> None:
    path = make_model(dtype=torch.bfloat16)
    checkpoint, ids = Checkpoint.open(path), torch.arange(2, 9)[None]

    def mapped(name: str, _shape: torch.Size) -> torch.Tensor:
        return checkpoint.torch(name, mapped=True)

    with torch.no_grad():
        logits = streamed_model(checkpoint, mapped, torch.bfloat16)(ids).logits
        assert torch.equal(logits, load_model(path, dtype=torch.bfloat16)(ids).logits)


def test_weights_of_another_shape_are_refused(make_model: ModelMaker) -> None:
    path = make_model()
    for changed in ({"intermediate_size": 32}, {"intermediate_size": 72, "num_hidden_layers": 4}):
        edit_config(path, **changed)
        checkpoint = Checkpoint.open(path)
        with refused():
            streamed_model(checkpoint, read_of(checkpoint))
