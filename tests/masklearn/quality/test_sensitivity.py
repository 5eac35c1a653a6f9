"""Changing one linear at a time gives the figures of whole models that are changed and run."""

from pathlib import Path

import pytest
import torch

from masklearn.model.checkpoint import Checkpoint
from masklearn.model.coverage import covered_linears_of
from masklearn.model.linears import linear_modules, read_linear
from masklearn.model.models import load_model
from masklearn.model.rounded_inputs import inputs_rounded
from masklearn.quality.perplexity import window_losses
from masklearn.quality.sensitivity import sensitivity
from tests.conftest import ModelMaker
from tests.masklearn.quality.halving import WINDOWS, halved, silent
from tests.refusals import refused

TOKENS = WINDOWS.shape[0] * (WINDOWS.shape[1] - 1)


def mean_loss(model: torch.nn.Module) -> float:
    return sum(window_losses(model, WINDOWS)) / TOKENS


@pytest.mark.parametrize("model_type", ["llama", "gpt2", "gemma3_text"])
def test_sensitivity_is_the_loss_of_one_change(
    make_model: ModelMaker, tmp_path: Path, model_type: str
) -> None:
    path = make_model(model_type)
    dense, pruned = Checkpoint.open(path), halved(path, tmp_path / "w")
    names = list(covered_linears_of(dense).linears)
    alone = sensitivity(dense, pruned, names, WINDOWS, "cpu", silent)
    assert list(alone) == names
    for name in (names[0], names[len(names) // 2], names[-1]):
        model = load_model(path)
        before = mean_loss(model)
        linear_modules(model, dense)[name].weight.data = read_linear(pruned, name)
        assert alone[name] == pytest.approx(mean_loss(model) - before, abs=2e-5)


def test_the_other_way_round_one_linear_is_restored(make_model: ModelMaker, tmp_path: Path) -> None:
    path = make_model("qwen3")
    dense, pruned = Checkpoint.open(path), halved(path, tmp_path / "w")
    names = list(covered_linears_of(dense).linears)
    restored = sensitivity(pruned, dense, names[:3], WINDOWS, "cpu", silent)
    assert list(restored) == names[:3]
    model = load_model(path)
    linears = linear_modules(model, dense)
    for name in names:
        linears[name].weight.data = read_linear(pruned, name)
    before = mean_loss(model)
    linears[names[1]].weight.data = read_linear(dense, names[1])
    assert restored[names[1]] == pytest.approx(mean_loss(model) - before, abs=2e-5)


def test_a_changed_linear_brings_its_inputs(make_model: ModelMaker, tmp_path: Path) -> None:
    """A linear of w8a8 rounds its inputs wherever it is put, and a dense linear in its place keeps them."""
    path = make_model("llama")
    names = list(covered_linears_of(Checkpoint.open(path)).linears)[:2]
    dense, pruned = Checkpoint.open(path), halved(path, tmp_path / "w").rounding_inputs(names)
    alone = sensitivity(dense, pruned, names, WINDOWS, "cpu", silent)
    restored = sensitivity(pruned, dense, names, WINDOWS, "cpu", silent)

    def loss(*changed: str) -> float:
        model = load_model(path)
        linears = linear_modules(model, dense)
        for name in changed:
            linears[name].weight.data = read_linear(pruned, name)
        with inputs_rounded({name: linears[name] for name in changed if name in names}):
            return mean_loss(model)

    every = list(covered_linears_of(dense).linears)
    for name in names:
        assert alone[name] == pytest.approx(loss(name) - loss(), abs=2e-5)
        without = [one for one in every if one != name]
        assert restored[name] == pytest.approx(loss(*without) - loss(*every), abs=2e-5)


def test_the_output_head_counts_where_it_is_covered(make_model: ModelMaker, tmp_path: Path) -> None:
    path = make_model("llama")
    dense = Checkpoint.open(path)
    from masklearn.model.linears import write_linear
    from masklearn.model.store import WeightStore

    store = WeightStore(tmp_path / "w")
    write_linear(store, dense, "lm_head", read_linear(dense, "lm_head") * 0.5)
    found = sensitivity(dense, dense.with_weights(store), ["lm_head"], WINDOWS, "cpu", silent)
    model = load_model(path)
    before = mean_loss(model)
    model.lm_head.weight.data *= 0.5
    assert found == {"lm_head": pytest.approx(mean_loss(model) - before, abs=2e-5)}


def test_an_encoder_has_no_such_loss(make_model: ModelMaker) -> None:
    checkpoint = Checkpoint.open(make_model("bert"))
    with refused():
        sensitivity(checkpoint, checkpoint, [], WINDOWS, "cpu", silent)
