from pathlib import Path

import pytest
import torch

from masklearn.model.checkpoint import Checkpoint
from masklearn.model.coverage import covered_linears_of
from masklearn.model.models import load_model
from masklearn.quality.divergence import divergences
from tests.conftest import ModelMaker
from tests.masklearn.quality.halving import WINDOWS, halved, silent


@pytest.mark.parametrize("model_type", ["llama", "gemma2", "gpt2"])
def test_it_is_the_kl_of_whole_models(make_model: ModelMaker, tmp_path: Path, model_type: str) -> None:
    path = make_model(model_type)
    pruned = halved(path, tmp_path / "w")
    found = divergences(pruned, [Checkpoint.open(path), pruned], WINDOWS, "cpu", silent)
    dense, other = load_model(path), load_model(path)
    state = other.state_dict()
    for name in covered_linears_of(pruned).linears:
        state[f"{name}.weight"].copy_(pruned.torch(f"{name}.weight"))
    ids = torch.from_numpy(WINDOWS)
    with torch.no_grad():
        p, q = other(ids).logits.log_softmax(-1), dense(ids).logits.log_softmax(-1)
    assert found[0] == pytest.approx(float((p.exp() * (p - q)).sum(-1).mean()), rel=1e-3)
    assert found[0] > 0.01
    assert found[1] == pytest.approx(0.0, abs=1e-6)


def test_encoders_are_compared_by_their_hidden_states(make_model: ModelMaker, tmp_path: Path) -> None:
    path = make_model("bert")
    dense, pruned = Checkpoint.open(path), halved(path, tmp_path / "w")
    apart, same = divergences(dense, [pruned, dense], WINDOWS, "cpu", silent)
    assert 0.0 < apart < 4.0
    assert same == 0.0
