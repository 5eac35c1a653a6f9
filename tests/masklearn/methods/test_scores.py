from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from masklearn.feed import Group
from masklearn.masks.kinds.table import TWO_FOUR
from masklearn.masks.nm_codes import KEPT_POSITIONS, PATTERNS
from masklearn.methods import Candidate, method_of
from masklearn.model.checkpoint import Checkpoint
from masklearn.model.coverage import covered_linears
from masklearn.recipe import LearnRecipe
from masklearn.solvers import obs
from masklearn.solvers.projection import Projection
from masklearn.stream.feed import CheckpointFeed
from masklearn.stream.moments import output_energy
from masklearn.text.calibrate import token_pool
from tests.conftest import ModelMaker
from tests.masklearn.conftest import Tiny
from tests.masklearn.edits import edited_weights

TILE = (32, 32)
SETTINGS = {"tile": TILE, "device": "cpu"}


def run(tiny: Tiny, method: str, path: Path, **settings: Any) -> dict[str, Candidate]:
    found = method_of(method).candidates(CheckpointFeed(tiny.task(path, method=method, **settings)))
    return {name: candidates[TWO_FOUR] for name, candidates in found}


def test_pruned_magnitudes_are_scored_over_the_mean(make_model: ModelMaker, tiny: Tiny) -> None:
    path = make_model(dtype=torch.float16)
    candidates = run(tiny, "magnitude", path)
    assert list(candidates) == list(covered_linears(path).linears)
    for name, candidate in candidates.items():
        weight = Checkpoint.open(path).torch(f"{name}.weight").double().numpy()
        groups = np.abs(weight).reshape(weight.shape[0], -1, 4)
        magnitudes = np.sort(groups, axis=-1)
        kept = np.where(PATTERNS[candidate.pattern], groups, 0).sum(-1)
        np.testing.assert_allclose(kept, magnitudes[..., 2:].sum(-1))
        lost = (magnitudes[..., :2] ** 2).sum(-1)
        np.testing.assert_allclose(candidate.score[0, 0], lost[:32, :8].sum() / (weight**2).mean(), rtol=1e-5)
        np.testing.assert_allclose(candidate.score.sum(), lost.sum() / (weight**2).mean(), rtol=1e-5)


def test_a_linear_of_zeros_costs_nothing(make_model: ModelMaker, tiny: Tiny) -> None:
    path = make_model()
    with edited_weights(path) as tensors:
        tensors["model.layers.0.self_attn.q_proj.weight"].zero_()
    candidate = run(tiny, "magnitude", path)["model.layers.0.self_attn.q_proj"]
    assert not candidate.score.any()
    assert not candidate.pattern.any()  # ties keep the first two


# test_blocks compares the inputs of every architecture; here is one of each layout of names and weights.
_LAYOUTS = ("llama", "mistral", "qwen2", "qwen3")


def whole_model(path: Path, recipe: LearnRecipe) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Wanda by its paper, weight by weight in numpy, with the whole model in memory."""
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
    linears = {name: m for name, m in model.named_modules() if isinstance(m, torch.nn.Linear)}
    inputs: dict[str, list[np.ndarray]] = {name: [] for name in linears}
    for name, linear in linears.items():
        linear.register_forward_pre_hook(lambda _, x, name=name: inputs[name].append(x[0][0].numpy()))
    with torch.no_grad():
        for window in token_pool(Checkpoint.open(path), recipe).calibration():
            model(torch.from_numpy(window)[None])
    return {
        name: pruned(linears[name].weight.detach().numpy(), np.concatenate(inputs[name])) for name in linears
    }


def pruned(weight: np.ndarray, inputs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    score = np.abs(weight) * np.sqrt((inputs.astype(np.float64) ** 2).sum(axis=0))
    codes = np.zeros((weight.shape[0], weight.shape[1] // 4), np.uint8)
    cost = np.zeros((-(-weight.shape[0] // TILE[0]), -(-weight.shape[1] // TILE[1])))
    for n, g in np.ndindex(codes.shape):
        group = score[n, 4 * g : 4 * g + 4]
        order = np.argsort(-group, kind="stable")
        codes[n, g] = KEPT_POSITIONS.index(tuple(sorted(order[:2].tolist())))
        cost[n // TILE[0], 4 * g // TILE[1]] += (group[order[2:]] ** 2).sum()
    return codes, cost / (score**2).mean()


@pytest.mark.parametrize("model_type", _LAYOUTS)
def test_block_by_block_equals_the_whole_model(make_model, tiny: Tiny, model_type: str) -> None:
    path = make_model(model_type, shard="30KB", dtype=torch.bfloat16)
    settings = {"windows": 6, "length": 20, "include": ("*",)}
    candidates, expected = run(tiny, "wanda", path, **settings), whole_model(path, tiny.recipe(**settings))
    assert sorted(candidates) == sorted(expected)
    for name, (codes, cost) in expected.items():
        np.testing.assert_array_equal(candidates[name].pattern, codes)
        np.testing.assert_allclose(candidates[name].score, cost, rtol=1e-4)


def test_scores_add_up_to_held_out_error(make_model: ModelMaker, tiny: Tiny, text_file: Path) -> None:
    """As a share of the output's energy there. The solve saw the other windows, and few of them."""
    words = sorted({*text_file.read_text().split()})
    text_file.write_text(" ".join(Random(0).choices(words, k=400)))
    path, settings = make_model(), {"criterion": "relative", "windows": 8, "length": 20}
    expected: dict[str, float] = {}
    fitted: dict[str, float] = {}

    def see(group: Group) -> dict[str, dict[str, Any]]:
        assert group.check is not None
        factor = obs.inverse_factor(group.moment.clone(), group.damping, "linear", pytest.fail)
        for name, weight in group.weights.items():
            allowed = Projection.everywhere(TWO_FOUR, tuple(weight.shape), weight.device)
            lost = weight - obs.solve_linear(weight, factor, allowed).weight
            expected[name] = output_energy(lost, group.check) / output_energy(weight, group.check)
            fitted[name] = output_energy(lost, group.moment) / output_energy(weight, group.moment)
        return {name: {} for name in group.weights}

    list(CheckpointFeed(tiny.task(path, method="sparsegpt", **settings)).moments(see, 8, "test"))
    candidates = run(tiny, "sparsegpt", path, **settings)
    assert candidates.keys() == expected.keys()
    for name, candidate in candidates.items():
        np.testing.assert_allclose(candidate.score.sum(), expected[name], rtol=1e-3)
    assert sum(expected.values()) > 1.2 * sum(fitted.values())
