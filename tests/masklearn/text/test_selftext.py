import json

import numpy as np
import pytest
import torch

from masklearn.model.models import load_model
from masklearn.quality.perplexity import perplexity
from masklearn.text import selftext
from masklearn.text.selftext import write_text
from tests.masklearn.architectures import LANGUAGE_MODELS, every
from tests.masklearn.edits import edit_config
from tests.refusals import refused


def test_windows_are_seeded_documents(make_model):
    model = make_model(max_position_embeddings=256, bos_token_id=1)
    seen = []
    text = write_text(model, 3, 100, 7, lambda *step: seen.append(step))
    assert text.shape == (3, 100)
    assert text.dtype == np.int64
    assert (text.reshape(-1)[::128] == 1).all()
    assert 0 <= text.min() <= text.max() < 40
    assert len(np.unique(text)) > 10  # sampled, not one repeated token
    assert seen[-1][1:] == (384, 384)
    np.testing.assert_array_equal(text, write_text(model, 3, 100, 7))
    assert (text != write_text(model, 3, 100, 8)).any()


def test_the_text_is_the_models_own(make_model):
    """The model finds its own tokens more likely than a uniform draw."""
    model = make_model(max_position_embeddings=256)
    own = write_text(model, 8, 64, 0)
    other = np.random.default_rng(0).integers(0, 40, own.shape)
    with torch.no_grad():
        net = load_model(model)
        assert perplexity(net, own) < perplexity(net, other)


@pytest.mark.parametrize(
    ("model_type", "settings"), [("llama", {"bos_token_id": None, "eos_token_id": None}), ("bert", {})]
)
def test_models_that_cannot_write_are_refused(make_model, model_type, settings):
    """One has no token to start with, one is an encoder."""
    with refused():
        write_text(make_model(model_type, **settings), 1, 8, 0)


def test_writing_leaves_torchs_own_generator_alone(make_model):
    model = make_model()
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    write_text(model, 1, 8, 0)
    assert torch.equal(torch.rand(4), expected)


def test_documents_fit_the_learned_positions(make_model):
    text = write_text(make_model("gpt2", max_position_embeddings=20), 3, 20, 0)
    assert (text[:, 0] == 1).all()


@pytest.fixture
def dtypes(monkeypatch):
    """Types of the models that write, in order."""
    seen, write = [], selftext._sample

    def sample(net, *arguments):
        seen.append(net.dtype)
        return write(net, *arguments)

    monkeypatch.setattr(selftext, "_sample", sample)
    return seen


def number_of_weights(model):
    return sum(file.stat().st_size for file in model.glob("*.safetensors")) // 2


def test_memory_decides_type_and_writability(make_model, dtypes, monkeypatch):
    model = make_model(dtype=torch.bfloat16)
    weights = number_of_weights(model)
    for free in (6 * weights, 3 * weights, weights):
        monkeypatch.setattr(selftext, "available_memory", lambda _, free=free: free)
        if free > weights:
            assert write_text(model, 1, 8, 0).shape == (1, 8)
    assert dtypes == [torch.float32, torch.bfloat16]
    with refused():
        write_text(model, 1, 8, 0)


def test_the_text_config_may_hold_the_type(make_model, dtypes, monkeypatch):
    model = make_model("gemma3", dtype=torch.bfloat16, bos_token_id=1)
    config = json.loads((model / "config.json").read_text())
    edit_config(model, dtype=None, text_config=config["text_config"] | {"dtype": "bfloat16"})
    monkeypatch.setattr(selftext, "available_memory", lambda _: 3 * number_of_weights(model))
    write_text(model, 1, 8, 0)
    assert dtypes == [torch.bfloat16]


@pytest.mark.parametrize("model_type", every(LANGUAGE_MODELS))
def test_every_causal_architecture_writes(make_model, model_type):
    text = write_text(make_model(model_type, bos_token_id=1), 2, 32, 0)
    assert text.shape == (2, 32)
    assert len(np.unique(text)) > 4
    assert text.max() < 40
