"""Scales train after the rounding: integers stay, scales stay storable, and worse ones are not kept."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from masklearn.learning import Learned, learn
from masklearn.quant.grid import Grid, spread, storable
from masklearn.quant.table import INT4, QUANTISED, WeightType
from masklearn.recipe import LearnRecipe
from masklearn.training import repair as module
from masklearn.training.student import fix_integers
from tests.conftest import ModelMaker

SIZES = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2}


@pytest.mark.parametrize("kind", QUANTISED.values(), ids=str)
def test_gradients_are_those_of_the_scales(kind: WeightType) -> None:
    rng = np.random.default_rng(0)
    integers = rng.integers(kind.lowest, kind.highest + 1, (6, 128)).astype(np.int8)
    scales = storable(rng.normal(0, 0.1, kind.scales_shape((6, 128))).astype(np.float32))
    scales.flat[0] = 0.0
    grid = Grid(kind, scales)
    linear = nn.Linear(128, 6, bias=False)
    with torch.no_grad():
        linear.weight.copy_(torch.from_numpy(grid.values(integers, np.dtype(np.float32))))
    before = linear.weight.detach().clone()
    fix_integers({"a": linear}, {"a": grid})
    assert torch.equal(linear.weight, before)
    x = torch.randn(5, 128)
    linear(x).square().sum().backward()
    plain = torch.from_numpy(scales).requires_grad_()
    wide = plain[:, None] if kind is not INT4 else plain.repeat_interleave(64, 1)
    own = torch.from_numpy(integers) * (spread(scales, 128) != 0)
    (x @ (own.float() * wide).t()).square().sum().backward()
    assert plain.grad is not None
    (factors,) = linear.parameters()
    assert factors.grad is not None
    expected = (plain.grad * plain.detach()).reshape(factors.shape)  # of the factor 1
    torch.testing.assert_close(factors.grad, expected)


def learned(path: Path, text_file: Path, scratch: Path, said: list[str], **settings: Any) -> Learned:
    given = {
        "tile": (32, 64), "calib": str(text_file), "windows": 4, "length": 16, "ratio": 0.3, "weights": "int4",
        "repair_steps": 30, "device": "cpu", "precision": "fp32",
    }  # fmt: skip
    return learn(path, LearnRecipe.parse(given | settings), scratch, note=said.append)


def integers_of(one: Learned) -> dict[str, np.ndarray]:
    grids = one.masks.grids
    return {name: grid.integers(one.checkpoint.read(f"{name}.weight")) for name, grid in grids.items()}


def test_scales_train_and_integers_stay(
    make_model: ModelMaker, text_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make_model(**SIZES)
    said: list[str] = []
    monkeypatch.setattr(module, "_LEARNING_RATE_OF_SCALES", 1e-2)
    trained = learned(path, text_file, tmp_path / "trained", said)
    record = trained.masks.record.repair
    assert record is not None and (record.steps, record.scale_steps) == (20, 10)
    assert record.scales_first is not None and record.scales_last is not None
    assert record.scales_last < record.scales_first
    assert any(line.startswith("scales: 10 steps") and "not kept" not in line for line in said)
    # A learning rate of 0.3 ruins the model, which then stays as it was rounded.
    monkeypatch.setattr(module, "_LEARNING_RATE_OF_SCALES", 0.3)
    ruined = learned(path, text_file, tmp_path / "ruined", said)
    assert said[-1].endswith("which are not kept")
    record = ruined.masks.record.repair
    assert record is not None and record.scales_last == record.scales_first
    first, last = integers_of(ruined), integers_of(trained)
    assert first.keys() == last.keys()
    for name, grid in trained.masks.grids.items():
        np.testing.assert_array_equal(last[name], first[name])
        assert not np.array_equal(grid.scales, ruined.masks.grids[name].scales)
        assert np.array_equal(storable(grid.scales), grid.scales)
    norm = "model.norm.weight"
    assert not np.array_equal(trained.checkpoint.read(norm), ruined.checkpoint.read(norm))


@pytest.mark.parametrize(("weights", "repair"), [("int8", "distill"), ("int4", "none")])
def test_scales_of_int8_alone_and_without_repair_do_not_train(
    make_model: ModelMaker, text_file: Path, tmp_path: Path, weights: str, repair: str
) -> None:
    one = learned(
        make_model(**SIZES), text_file, tmp_path / "s", [], weights=weights, repair=repair, repair_steps=3
    )
    record = one.masks.record.repair
    assert (record is None) == (repair == "none")
    assert record is None or (record.steps, record.scale_steps) == (3, 0)
