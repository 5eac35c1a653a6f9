"""Whole runs of the gradient methods on tiny models."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from masklearn.choice.goal import Goal
from masklearn.choice.select import select
from masklearn.masks.kinds.table import TWO_FOUR
from masklearn.masks.maskset import MaskSet
from masklearn.masks.tiles import tile_weights
from masklearn.methods import Candidate, method_of
from masklearn.methods.gradient import learner
from masklearn.methods.gradient.prior import Prior, prior_path
from masklearn.stream.feed import CheckpointFeed
from masklearn.task import Task
from tests.conftest import ModelMaker
from tests.masklearn.conftest import Tiny
from tests.refusals import refused

pytestmark = pytest.mark.usefixtures("fp32")
TILE = (32, 32)
SETTINGS: dict[str, Any] = {
    "method": "patch-joint", "ratio": 0.35, "tile": TILE, "device": "cpu", "prior": "wanda", "steps": 3,
}  # fmt: skip
TRAINED = ["patch-joint", "patch-tile", "maskllm"]


@pytest.mark.parametrize("method", TRAINED)
@pytest.mark.parametrize("ratio", [0.0, 0.23, 0.5])
def test_the_ratio_is_met(make_model, tiny: Tiny, method: str, ratio: float) -> None:
    learned = tiny.learn(make_model(), method=method, ratio=ratio)
    assert abs(learned.masks.ratio - ratio) * learned.masks.weights <= 32 * 32 / 4
    assert ratio not in (0.0, 0.5) or learned.masks.ratio == ratio
    record = learned.masks.record.train
    assert (record.prior, record.steps, record.tokens) == ("wanda", 3, 3 * 2 * 16)
    assert {"lm", "kl", "density", "loss"} == set(record.first) == set(record.last)
    learned.masks.save(tiny.folder / "masks")
    assert MaskSet.load(tiny.folder / "masks").record.train == record


def test_ratios_by_pattern_are_met_each(make_model: ModelMaker, tiny: Tiny) -> None:
    masks = tiny.learn(make_model(), ratio="mlp.*=0.5,v_proj=0").masks
    for name, mask in masks.items():
        assert mask.tiles.all() if "mlp" in name else not mask.tiles.any()


@pytest.mark.parametrize("model_type", ["gpt2", "bert", "gemma2", "qwen3_moe"])
def test_other_architectures(make_model: ModelMaker, tiny: Tiny, model_type: str) -> None:
    """They have Conv1D weights, an encoder without a language model's loss, a soft-capped head, and experts."""
    learned = tiny.learn(make_model(model_type))
    assert abs(learned.masks.ratio - 0.35) * learned.masks.weights <= 32 * 32 / 4
    assert ("hidden" in learned.masks.record.train.last) == (model_type == "bert")


def run(
    tiny: Tiny, model: Path, name: str = "s", **settings: Any
) -> tuple[dict[str, Candidate], Prior, Task]:
    """The candidates of a method, with its prior and its task."""
    task = tiny.task(model, name, note=lambda _: None, **{"learning_rate": 0.1, "steps": 6} | settings)
    found = method_of(task.recipe.method).candidates(CheckpointFeed(task))
    return {name: candidates[TWO_FOUR] for name, candidates in found}, Prior(prior_path(task)), task


def test_a_covered_head_trains_too(make_model: ModelMaker, tiny: Tiny) -> None:
    found, prior, _ = run(tiny, make_model(), include=("*",))
    assert (found["lm_head"].score != prior["lm_head"].score).any()
    assert (found["lm_head"].pattern != prior["lm_head"].pattern).any()


@pytest.mark.parametrize("method", TRAINED)
def test_training_that_moves_nothing_ends_as_the_prior(make_model, tiny: Tiny, method: str) -> None:
    candidates, prior, task = run(tiny, make_model(), method=method, steps=2, learning_rate=1e-12)
    areas = {name: tile_weights(shape, TILE) for name, shape in task.coverage.linears.items()}
    budget = Goal.of_ratio(task.recipe.ratio)
    ended = select({name: candidates[name].score for name in areas}, areas, budget)
    expected = select({name: prior.score(name) for name in areas}, areas, budget)
    for name in areas:
        np.testing.assert_array_equal(ended[name], expected[name])
        np.testing.assert_array_equal(candidates[name].pattern, prior[name].pattern)


@pytest.mark.parametrize(("method", "trained"), zip(TRAINED, ("ps", "s", "p"), strict=True))
def test_what_a_method_does_not_train_stays(make_model, tiny: Tiny, method: str, trained: str) -> None:
    candidates, prior, _ = run(tiny, make_model(), method=method)
    patterns = any((candidates[n].pattern != prior[n].pattern).any() for n in prior)
    scores = any((candidates[n].score != prior[n].score).any() for n in prior)
    assert (patterns, scores) == ("p" in trained, "s" in trained)


def test_gradient_checkpointing_changes_nothing(
    make_model, tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, results = make_model(), []
    for on, room in ((False, 2**40), (True, 2**10)):
        monkeypatch.setattr(learner, "available_memory", lambda _, room=room: room)
        found, _, task = run(tiny, model, str(on), steps=4, learning_rate=0.05)
        assert learner._keeps_much(task) is on
        results.append(found)
    for name, candidate in results[0].items():
        np.testing.assert_array_equal(candidate.pattern, results[1][name].pattern)
        np.testing.assert_allclose(candidate.score, results[1][name].score, rtol=1e-5)


def test_bfloat16_runs(make_model: ModelMaker, tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True)
    learned = tiny.learn(make_model())
    assert np.isfinite(list(learned.masks.record.train.last.values())).all()


def test_records_hold_no_path(make_model, tiny: Tiny) -> None:
    model = make_model()
    tiny.learn(model, "w", method="wanda").masks.save(tiny.folder / "masks.safetensors")
    learned = tiny.learn(model, prior=str(tiny.folder / "masks.safetensors"))
    assert learned.masks.record.train.prior == "masks.safetensors"
    assert str(tiny.folder) not in json.dumps(learned.masks.record.as_metadata())


def test_a_learning_rate_that_diverges_is_said(make_model: ModelMaker, tiny: Tiny) -> None:
    with refused():
        tiny.learn(make_model(), learning_rate=1e38, steps=4)
