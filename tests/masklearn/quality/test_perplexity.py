import math
from pathlib import Path

import numpy as np
import pytest
import torch

from masklearn.model.models import load_model
from masklearn.model.pretrained import load_tokenizer
from masklearn.quality.perplexity import perplexity, window_losses
from masklearn.text.calibrate import first_windows
from tests.conftest import ModelMaker
from tests.masklearn.architectures import LANGUAGE_MODELS, every
from tests.refusals import refused

# longer than one chunk of the head
WINDOWS = np.random.default_rng(0).integers(0, 40, (3, 300))


@pytest.mark.parametrize("model_type", every(LANGUAGE_MODELS))
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_loss_is_that_of_transformers(make_model: ModelMaker, model_type: str, dtype: torch.dtype) -> None:
    path = make_model(model_type, max_position_embeddings=512)
    model = load_model(path, dtype=dtype)
    expected = []
    with torch.no_grad():
        for window in torch.from_numpy(WINDOWS):
            expected.append(float(model(window[None], labels=window[None]).loss))
    losses = [loss / 299 for loss in window_losses(model, WINDOWS)]
    np.testing.assert_allclose(losses, expected, rtol=1e-5)
    assert perplexity(model, WINDOWS) == pytest.approx(math.exp(np.mean(expected)), rel=1e-5)


def test_progress_streams(make_model: ModelMaker) -> None:
    calls: list[tuple[str, int, int]] = []
    perplexity(load_model(make_model()), WINDOWS[:, :8], lambda *call: calls.append(call))
    assert calls == [("perplexity", done, 3) for done in (1, 2, 3)]


def test_an_encoder_has_no_perplexity(make_model: ModelMaker) -> None:
    with refused():
        perplexity(load_model(make_model("bert")), WINDOWS[:, :8])


def test_windows_longer_than_learned_positions(make_model: ModelMaker) -> None:
    with refused():
        perplexity(load_model(make_model("gpt2")), WINDOWS)


@pytest.mark.model
def test_sample_model_on_its_text(sample_model: Path, sample_texts: Path) -> None:
    """The real model on English that it has not seen; 14.15 was measured on these windows."""
    windows = first_windows(load_tokenizer(sample_model), sample_texts / "eval.txt", 256, 4)
    result = perplexity(load_model(sample_model), windows)
    assert result == pytest.approx(14.146, rel=0.01)
