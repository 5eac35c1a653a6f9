"""Whole runs of the gradient methods on tiny models."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from masklearn.choice.goal import Goal
from masklearn.choice.select import select
from masklearn.learning import learn
from masklearn.masks.kinds.table import TWO_FOUR
from masklearn.masks.maskset import MaskSet
from masklearn.masks.tiles import tile_weights
from masklearn.methods import Candidate, method_of
from masklearn.methods.gradient import learner
from masklearn.methods.gradient.prior import Prior, prior_path
from masklearn.recipe import LearnRecipe
from masklearn.stream.feed import CheckpointFeed
from tests.conftest import ModelMaker
from tests.masklearn.methods.gradient.tasks import TILE, make_task
from tests.refusals import refused

pytestmark = pytest.mark.usefixtures("fp32")
TRAINED = ["patch-joint", "patch-tile", "maskllm"]


def recipe(text: Path, **settings: Any) -> LearnRecipe:
    defaults: dict[str, Any] = {
        "method": "patch-joint", "ratio": 0.35, "tile": TILE, "calib": str(text), "windows": 4, "length": 16,
        "device": "cpu", "prior": "wanda", "steps": 3, "repair": "none",
    }  # fmt: skip
    return LearnRecipe(**(defaults | settings))


@pytest.mark.parametrize("method", TRAINED)
@pytest.mark.parametrize("ratio", [0.0, 0.23, 0.5])
def test_the_ratio_is_met(make_model, text_file: Path, tmp_path: Path, method: str, ratio: float) -> None:
    learned = learn(make_model(), recipe(text_file, method=method, ratio=ratio), tmp_path / "s")
    assert abs(learned.masks.ratio - ratio) * learned.masks.weights <= 32 * 32 / 4
    assert ratio not in (0.0, 0.5) or learned.masks.ratio == ratio
    record = learned.masks.record.train
    assert (record.prior, record.steps, record.tokens) == ("wanda", 3, 3 * 2 * 16)
    assert {"lm", "kl", "density", "loss"} == set(record.first) == set(record.last)
    learned.masks.save(tmp_path / "masks")
    assert MaskSet.load(tmp_path / "masks").record.train == record


def test_ratios_by_pattern_are_met_each(make_model: ModelMaker, text_file: Path, tmp_path: Path) -> None:
    masks = learn(make_model(), recipe(text_file, ratio="mlp.*=0.5,v_proj=0"), tmp_path / "s").masks
    for name, mask in masks.items():
        assert mask.tiles.all() if "mlp" in name else not mask.tiles.any()


@pytest.mark.parametrize("model_type", ["gpt2", "bert", "gemma2", "qwen3_moe"])
def test_other_architectures(
    make_model: ModelMaker, text_file: Path, tmp_path: Path, model_type: str
) -> None:
    """They have Conv1D weights, an encoder without a language model's loss, a soft-capped head, and experts."""
    learned = learn(make_model(model_type), recipe(text_file), tmp_path / "s")
    assert abs(learned.masks.ratio - 0.35) * learned.masks.weights <= 32 * 32 / 4
    assert ("hidden" in learned.masks.record.train.last) == (model_type == "bert")


def test_a_covered_head_trains_too(make_model: ModelMaker, text_file: Path, tmp_path: Path) -> None:
    settings = {"prior": "wanda", "steps": 6, "learning_rate": 0.1, "include": ("*",)}
    task = make_task(make_model(), text_file, tmp_path / "s", method="patch-joint", **settings)
    head, prior = run(task)["lm_head"], Prior(prior_path(task))
    assert (head.score != prior["lm_head"].score).any()
    assert (head.pattern != prior["lm_head"].pattern).any()


def run(task: Any) -> dict[str, Candidate]:
    found = method_of(task.recipe.method).candidates(CheckpointFeed(task))
    return {name: candidates[TWO_FOUR] for name, candidates in found}


@pytest.mark.parametrize("method", TRAINED)
def test_training_that_moves_nothing_ends_as_the_prior(
    make_model, text_file, tmp_path: Path, method: str
) -> None:
    task = make_task(
        make_model(), text_file, tmp_path / "s", method=method, prior="wanda", steps=2, learning_rate=1e-12
    )
    candidates, prior = run(task), Prior(prior_path(task))
    areas = {name: tile_weights(shape, TILE) for name, shape in task.coverage.linears.items()}
    budget = Goal.of_ratio(task.recipe.ratio)
    ended = select({name: candidates[name].score for name in areas}, areas, budget)
    expected = select({name: prior.score(name) for name in areas}, areas, budget)
    for name in areas:
        np.testing.assert_array_equal(ended[name], expected[name])
        np.testing.assert_array_equal(candidates[name].pattern, prior[name].pattern)


def test_what_a_method_does_not_train_stays(make_model: ModelMaker, text_file: Path, tmp_path: Path) -> None:
    model = make_model()
    for method, trained in (("patch-joint", "ps"), ("patch-tile", "s"), ("maskllm", "p")):
        scratch = tmp_path / method
        task = make_task(model, text_file, scratch, method=method, prior="wanda", steps=6, learning_rate=0.1)
        candidates, prior = run(task), Prior(prior_path(task))
        patterns = any((candidates[n].pattern != prior[n].pattern).any() for n in prior)
        scores = any((candidates[n].score != prior[n].score).any() for n in prior)
        assert (patterns, scores) == ("p" in trained, "s" in trained)


def test_gradient_checkpointing_changes_nothing(
    make_model, text_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, results = make_model(), []
    for on, room in ((False, 2**40), (True, 2**10)):
        monkeypatch.setattr(learner, "available_memory", lambda _, room=room: room)
        task = make_task(
            model, text_file, tmp_path / str(on), method="patch-joint", prior="wanda", steps=4, learning_rate=0.05,
        )  # fmt: skip
        assert learner._keeps_much(task) is on
        results.append(run(task))
    for name, candidate in results[0].items():
        np.testing.assert_array_equal(candidate.pattern, results[1][name].pattern)
        np.testing.assert_allclose(candidate.score, results[1][name].score, rtol=1e-5)


def test_bfloat16_runs(
    make_model: ModelMaker, text_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True)
    learned = learn(make_model(), recipe(text_file), tmp_path / "s")
    assert np.isfinite(list(learned.masks.record.train.last.values())).all()


def test_records_hold_no_path(make_model, text_file, tmp_path: Path) -> None:
    model = make_model()
    learn(model, recipe(text_file, method="wanda"), tmp_path / "w").masks.save(tmp_path / "masks.safetensors")
    learned = learn(model, recipe(text_file, prior=str(tmp_path / "masks.safetensors")), tmp_path / "s")
    assert learned.masks.record.train.prior == "masks.safetensors"
    assert str(tmp_path) not in json.dumps(learned.masks.record.as_metadata())


def test_a_learning_rate_that_diverges_is_said(
    make_model: ModelMaker, text_file: Path, tmp_path: Path
) -> None:
    with refused():
        learn(make_model(), recipe(text_file, learning_rate=1e38, steps=4), tmp_path / "s")
