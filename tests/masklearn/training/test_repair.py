"""Repair of tiny models: the tensors it trains and leaves, runs that are cut off, and runs in several processes."""

from dataclasses import replace
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from masklearn.learning import Learned
from masklearn.masks.linear_mask import LinearMask
from masklearn.masks.record import RepairRecord
from masklearn.model.architectures import ARCHITECTURES
from masklearn.model.checkpoint import Checkpoint
from masklearn.model.linears import read_linear
from masklearn.model.store import WeightStore
from masklearn.quant.grid import Grid, spread, storable
from masklearn.quant.table import INT4, QUANTISED, WeightType
from masklearn.recipe import LearnRecipe
from masklearn.task import Task
from masklearn.training import loop
from masklearn.training import repair as module
from masklearn.training.model import MemorySettings, memory_need
from masklearn.training.repair import default_rate, default_steps, repair
from masklearn.training.student import fix_integers
from tests.conftest import ModelMaker
from tests.masklearn.architectures import every
from tests.masklearn.conftest import Tiny, task_of
from tests.masklearn.mask_sets import magnitude_masks
from tests.masklearn.processes import Runs

pytestmark = pytest.mark.usefixtures("fp32")
STEPS = 12


def recipe_of(text: Path, **settings: Any) -> LearnRecipe:
    defaults: dict[str, Any] = {
        "calib": str(text), "windows": 4, "length": 16, "device": "cpu", "repair_steps": STEPS,
        "learning_rate": 3e-3,
    }  # fmt: skip
    return LearnRecipe(**(defaults | settings))


class Repaired:
    """A finished repair, with all lines and progress that it showed."""

    def __init__(self, path: Path, recipe: LearnRecipe, *, solved: float | None = None) -> None:
        """solved: value of all weights that the repair starts from, None for the weights of the model."""
        self.said: list[str] = []
        self.shown: list[tuple[str, int, int]] = []
        self.dense = Checkpoint.open(path)
        self.masks = magnitude_masks(self.dense, recipe.include)
        task = task_of(path, recipe)
        self.task: Task = replace(task, note=self.said.append, progress=lambda *what: self.shown.append(what))
        self.store = WeightStore(task.scratch / "weights")
        self.new = self.dense.with_weights(self.store)
        for name in [f"{name}.weight" for name in self.masks if solved is not None]:
            self.store.put(name, torch.full(self.dense.shape(name), solved), self.dense.entry(name))
        self.record = repair(self.task.of(self.new), self.masks, self.store)


@pytest.mark.parametrize("model_type", every())
def test_it_comes_closer_and_prunes_exactly(make_model: ModelMaker, text_file: Path, model_type: str) -> None:
    path = make_model(model_type)
    run = Repaired(path, recipe_of(text_file, repair_steps=20))
    figure = "error" if ARCHITECTURES[model_type].encoder else "kl"
    assert run.record.method == "distill" and run.record.steps == 20
    assert getattr(run.record, f"{figure}_last") < 0.9 * getattr(run.record, f"{figure}_first")
    assert len(run.said) == 1 and figure in run.said[0]
    assert run.shown[-1][0].startswith(f"repair: {figure} ") and run.shown[-1][1:] == (20, 20)
    check_tensors(run, run.masks)


def check_tensors(run: Repaired, masks: dict[str, LinearMask]) -> None:
    """Check that only vectors and kept weights of masked linears changed."""
    for name, mask in masks.items():
        new, old, keep = read_linear(run.new, name).numpy(), read_linear(run.dense, name).numpy(), mask.keep()
        assert bool((new[~keep] == 0).all()), name
        assert bool((new[keep] != old[keep]).any()), name
    for name in run.store.names():
        assert name.removesuffix(".weight") in masks or len(run.dense.shape(name)) == 1, name


def test_norms_train_but_embeddings_do_not(make_model: ModelMaker, text_file: Path) -> None:
    run = Repaired(make_model("qwen2"), recipe_of(text_file))
    stored = set(run.store.names())
    for name in (
        "model.norm.weight",
        "model.layers.1.input_layernorm.weight",
        "model.layers.2.self_attn.k_proj.bias",
    ):
        assert name in stored and not np.array_equal(run.new.read(name), run.dense.read(name))
    assert not stored & {"model.embed_tokens.weight", "lm_head.weight"}


@pytest.mark.parametrize("include", [(), ("*",)])
def test_a_pooler_does_not_train(make_model: ModelMaker, text_file: Path, include: tuple[str, ...]) -> None:
    """It does not influence the last hidden states, also if it has a mask."""
    run = Repaired(make_model("bert"), recipe_of(text_file, include=include, repair_steps=2))
    assert ("pooler.dense" in run.masks) is bool(include)
    names = set(run.store.names())
    assert "encoder.layer.0.output.dense.bias" in names
    assert not [name for name in names if "pooler" in name]


def test_a_covered_head_trains(make_model: ModelMaker, text_file: Path) -> None:
    run = Repaired(make_model(), recipe_of(text_file, include=("*",)))
    assert "lm_head" in run.masks
    check_tensors(run, run.masks)


def test_repair_starts_from_solved_weights(make_model: ModelMaker, text_file: Path) -> None:
    path, recipe = make_model(), recipe_of(text_file, repair_steps=1)
    far, near = (Repaired(path, recipe, solved=solved).record for solved in (0.0, None))
    assert far.kl_first > 1.5 * near.kl_first


def test_bf16_changes_little(
    make_model: ModelMaker, text_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make_model()
    plain = Repaired(path, recipe_of(text_file))
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True)
    other = Repaired(path, recipe_of(text_file))
    assert other.record.kl_last == pytest.approx(plain.record.kl_last, rel=0.1)


def test_the_budget_in_minutes_ends_it(
    make_model: ModelMaker, text_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The clock goes on by 0.1 s each time that it is read: twice a step."""
    monkeypatch.setattr(loop, "time", SimpleNamespace(monotonic=count(0, 0.1).__next__))
    run = Repaired(make_model(), recipe_of(text_file, repair_steps=None, repair_minutes=0.03))
    assert run.record.steps == 9
    assert run.shown[-1][2] == 2  # seconds


def test_no_steps_are_no_repair(make_model: ModelMaker, text_file: Path) -> None:
    run = Repaired(make_model(), recipe_of(text_file, repair_steps=0))
    assert run.record == RepairRecord(method="none", why="its budget is 0 steps")
    assert not list(run.store.names())


def test_without_memory_it_is_off_and_says_so(
    make_model: ModelMaker, text_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "available_memory", lambda _: 2**20)
    run = Repaired(make_model(), recipe_of(text_file))
    assert run.record.method == "none" and "0.0 GiB" in run.record.why
    assert len(run.said) == 4 and "repair is off" in run.said[-1]
    assert not list(run.store.names()) and not run.shown


def test_with_little_memory_adam_is_given_up_first(
    make_model: ModelMaker, text_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make_model()
    need = memory_need(Checkpoint.open(path), magnitude_masks(Checkpoint.open(path)), 2 * 16)
    least = need.bytes_for(MemorySettings("adafactor", True, True), bf16=False)
    monkeypatch.setattr(module, "available_memory", lambda _: least)
    run = Repaired(path, recipe_of(text_file, repair_steps=30))
    assert run.record.optimizer == "adafactor"
    assert "AdamW" in run.said[0] and run.record.kl_last < run.record.kl_first
    check_tensors(run, run.masks)


def test_a_near_model_is_repaired_in_small_steps(
    make_model: ModelMaker, text_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beyond a distance the rate grows no more."""
    monkeypatch.setattr(module, "_FAR", 2.0)
    record = Repaired(make_model("llama"), recipe_of(text_file, learning_rate=None, repair_steps=1)).record
    assert record.kl_first is not None and record.learning_rate == default_rate(record.kl_first) < 3e-4
    assert default_rate(0.1) == pytest.approx(default_rate(0.2) / 2)
    assert default_rate(2.0) == default_rate(3.0) == 3e-4


@pytest.mark.parametrize(
    ("weights", "cpu", "cuda"), [(30e6, 64, 64), (135e6, 64, 64), (540e6, 32, 128), (7e9, 9, 461)]
)
def test_default_repair_grows_by_root_of_weights(weights: float, cpu: int, cuda: int) -> None:
    """Its tokens on a GPU, its time on a CPU, where a step takes time in proportion to the weights."""
    assert default_steps(int(weights), 1024, "cpu") == cpu
    assert default_steps(int(weights), 1024, "cuda") == cuda


def test_killed_and_resumed_ends_in_same_bytes(
    make_model: ModelMaker, text_file: Path, tmp_path: Path
) -> None:
    runs = Runs("repair", make_model(), recipe_of(text_file), tmp_path)
    whole, cut = (
        {file.name: file.read_bytes() for file in folder.iterdir()}
        for folder in (runs.finish("whole"), runs.cut_and_resumed("cut", STEPS))
    )
    assert whole and cut == whole


@pytest.mark.parametrize(("kind", "model_type"), [("ddp", "bert"), ("fsdp", "llama")])
def test_two_processes_equal_a_double_batch(
    make_model: ModelMaker, text_file: Path, tmp_path: Path, kind: str, model_type: str
) -> None:
    """DDP refuses a second step if a parameter that trains gets no gradient, as one of bert's pooler would.

    Adam moves a weight by up to 0.036 here, also where its gradient is not much more than roundoff: so single weights may
    differ more than their tensor does, and bert's biases of keys, whose gradient is all roundoff, most.
    """
    model = make_model(model_type)
    two = WeightStore(Runs("repair", model, recipe_of(text_file, batch=2), tmp_path, kind).finish("two"))
    one = WeightStore(Runs("repair", model, recipe_of(text_file, batch=4), tmp_path).finish("one"))
    names = list(one.names())
    assert list(two.names()) == names and names
    for name in names:
        differences = np.abs(np.asarray(two.read(name)) - np.asarray(one.read(name)))
        # With half the batch they are .004 and .001.
        assert differences.max() < 5e-3 and differences.mean() < 4e-4, name


SETTINGS = {
    "tile": (32, 64), "ratio": 0.3, "weights": "int4", "repair": "distill", "repair_steps": 30, "device": "cpu",
}  # fmt: skip
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


def integers_of(one: Learned) -> dict[str, np.ndarray]:
    grids = one.masks.grids
    return {name: grid.integers(one.checkpoint.read(f"{name}.weight")) for name, grid in grids.items()}


def test_scales_train_and_integers_stay(
    make_model: ModelMaker, tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make_model(**SIZES)
    said: list[str] = []
    monkeypatch.setattr(module, "_LEARNING_RATE_OF_SCALES", 1e-2)
    trained = tiny.learn(path, "trained", note=said.append)
    record = trained.masks.record.repair
    assert record is not None and (record.steps, record.scale_steps) == (20, 10)
    assert record.scales_first is not None and record.scales_last is not None
    assert record.scales_last < record.scales_first
    assert any(line.startswith("scales: 10 steps") and "not kept" not in line for line in said)
    # A learning rate of 0.3 ruins the model, which then stays as it was rounded.
    monkeypatch.setattr(module, "_LEARNING_RATE_OF_SCALES", 0.3)
    ruined = tiny.learn(path, "ruined", note=said.append)
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


@pytest.mark.parametrize(
    ("settings", "steps"),
    [
        ({"weights": "int4", "ratio": 0.0}, (0, 30)),
        ({"weights": "int8", "ratio": 0.0}, (0, 0)),
        ({"weights": "w8a8", "ratio": 0.0}, (30, 0)),
        ({"weights": "int8", "repair_steps": 3}, (3, 0)),
        ({"weights": "int4", "repair": "none", "repair_steps": None}, None),
    ],
)
def test_steps_go_to_what_there_is_to_repair(
    make_model: ModelMaker, tiny: Tiny, settings: dict[str, Any], steps: tuple[int, int] | None
) -> None:
    """Unpruned weights leave all steps to the scales of int4. Rounded inputs are there to repair."""
    record = tiny.learn(make_model(**SIZES), note=lambda _: None, **settings).masks.record.repair
    if steps is None:
        assert record is None
        return
    assert record is not None and (record.steps, record.scale_steps) == steps
    if steps[0] == 0:
        assert (record.method, record.why) == ("none", "no weight is pruned")
    if steps == (0, 30):
        assert record.kl_last == 0.0 and record.scales_last is not None and record.scales_last > 0.0
