import numpy as np
import pytest

from masklearn.errors import PatchCompileError
from masklearn.selftext import write_text


def test_windows_are_documents_after_a_start_token_and_follow_the_seed(make_model):
    model = make_model(max_position_embeddings=256, bos_token_id=1)
    seen = []
    text = write_text(model, 3, 100, 7, lambda *step: seen.append(step))
    assert text.shape == (3, 100)
    assert text.dtype == np.int64
    assert (text.reshape(-1)[::128] == 1).all()
    assert 0 <= text.min() <= text.max() < 40
    assert len(np.unique(text)) > 10  # sampled, not one token over and over
    assert seen[-1][1:] == (384, 384)
    np.testing.assert_array_equal(text, write_text(model, 3, 100, 7))
    assert (text != write_text(model, 3, 100, 8)).any()


def test_the_text_is_the_models_own(make_model):
    """Tokens that the model finds likely: below the perplexity that a uniform draw has."""
    import torch

    from masklearn.evaluate import load_model, perplexity

    model = make_model(max_position_embeddings=256)
    own = write_text(model, 8, 64, 0)
    other = np.random.default_rng(0).integers(0, 40, own.shape)
    with torch.no_grad():
        net = load_model(model)
        assert perplexity(net, own).value < perplexity(net, other).value


def test_a_model_without_a_start_token(make_model):
    model = make_model(bos_token_id=None, eos_token_id=None)
    with pytest.raises(PatchCompileError, match="no start token"):
        write_text(model, 1, 8, 0)
