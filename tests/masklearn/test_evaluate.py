import math
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from masklearn.architectures import ARCHITECTURES
from masklearn.calibrate import load_tokenizer, read_text, token_windows
from masklearn.errors import PatchCompileError
from masklearn.evaluate import load_model, perplexity, window_losses
from masklearn.learn import learn
from masklearn.recipe import LearnRecipe
from tests.conftest import ModelMaker

# Longer than one chunk of the head.
WINDOWS = np.random.default_rng(0).integers(0, 40, (3, 300))


@pytest.mark.parametrize("model_type", sorted(ARCHITECTURES))
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
    result = perplexity(model, WINDOWS)
    assert result.value == pytest.approx(math.exp(np.mean(expected)), rel=1e-5)
    assert (result.windows, result.length, result.tokens) == (3, 300, 897)
    assert result.dtype == str(dtype).removeprefix("torch.")


def test_progress_streams(make_model: ModelMaker) -> None:
    calls: list[tuple[str, int, int]] = []
    perplexity(load_model(make_model()), WINDOWS[:, :8], lambda *call: calls.append(call))
    assert calls == [("perplexity", done, 3) for done in (1, 2, 3)]


def test_masked_model_has_the_masks_zeros_and_no_others(make_model: ModelMaker, text_file: Path) -> None:
    path = make_model()
    masks = learn(path, LearnRecipe(method="magnitude", tile=(32, 32), ratio=0.3))
    dense = AutoModelForCausalLM.from_pretrained(path).state_dict()
    for name, tensor in load_model(path, masks).state_dict().items():
        mask = masks.get(name.removesuffix(".weight"))
        expected = (
            dense[name] if mask is None else torch.where(torch.from_numpy(mask.keep()), dense[name], 0.0)
        )
        assert torch.equal(tensor, expected)


def test_masks_of_another_model(make_model: ModelMaker) -> None:
    masks = learn(make_model(), LearnRecipe(method="magnitude", tile=(32, 32)))
    with pytest.raises(PatchCompileError, match="another model"):
        load_model(make_model(intermediate_size=64), masks)
    with pytest.raises(PatchCompileError, match="another model"):
        load_model(make_model(num_hidden_layers=2), masks)


@pytest.mark.model
def test_sample_model_on_its_text(sample_model: Path, sample_texts: Path) -> None:
    """A real model on English it has not been fitted to: measured 14.15 on these windows."""
    text = read_text(sample_texts / "eval.txt")
    result = perplexity(load_model(sample_model), token_windows(load_tokenizer(sample_model), text, 256, 4))
    assert result.value == pytest.approx(14.146, rel=0.01)
