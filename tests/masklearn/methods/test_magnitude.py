import numpy as np
import torch
from safetensors.torch import load_file, save_file

from masklearn.masks.kinds.table import TWO_FOUR
from masklearn.masks.nm_codes import PATTERNS
from masklearn.methods import Candidate, method_of
from masklearn.model.checkpoint import Checkpoint
from masklearn.model.coverage import covered_linears
from masklearn.recipe import LearnRecipe
from masklearn.stream.feed import CheckpointFeed
from tests.conftest import ModelMaker
from tests.masklearn.tasks import task_of

RECIPE = LearnRecipe(method="magnitude", tile=(32, 32))


def run(path) -> dict[str, Candidate]:
    found = method_of("magnitude").candidates(CheckpointFeed(task_of(path, RECIPE)))
    return {name: candidates[TWO_FOUR] for name, candidates in found}


def test_keeps_the_larger_and_scores_what_goes_in_units_of_the_mean(make_model: ModelMaker) -> None:
    path = make_model(dtype=torch.float16)
    candidates = run(path)
    assert list(candidates) == list(covered_linears(path).linears)
    for name, candidate in candidates.items():
        weight = Checkpoint.open(path).torch(f"{name}.weight").double().numpy()
        magnitudes = np.sort(np.abs(weight).reshape(weight.shape[0], -1, 4), axis=-1)
        kept = np.where(PATTERNS[candidate.pattern], np.abs(weight).reshape(weight.shape[0], -1, 4), 0).sum(
            -1
        )
        np.testing.assert_allclose(kept, magnitudes[..., 2:].sum(-1))
        lost = (magnitudes[..., :2] ** 2).sum(-1)
        np.testing.assert_allclose(candidate.score[0, 0], lost[:32, :8].sum() / (weight**2).mean(), rtol=1e-5)
        np.testing.assert_allclose(candidate.score.sum(), lost.sum() / (weight**2).mean(), rtol=1e-5)


def test_a_linear_of_zeros_costs_nothing(make_model: ModelMaker) -> None:
    path = make_model()
    tensors = load_file(path / "model.safetensors")
    tensors["model.layers.0.self_attn.q_proj.weight"].zero_()
    save_file(tensors, path / "model.safetensors", {"format": "pt"})
    candidate = run(path)["model.layers.0.self_attn.q_proj"]
    assert not candidate.score.any()
    assert not candidate.pattern.any()  # ties keep the first two
