"""The training loop learns a linear map with an objective of its own."""

import math
import resource
from collections.abc import Mapping
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_pre_hook

from masklearn.text.calibrate import TokenPool
from masklearn.training import loop
from masklearn.training.loop import Schedule, TrainReport, train
from tests.refusals import refused

LENGTH = 4


@pytest.fixture(autouse=True)
def checkpoints_every_three_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "CHECKPOINT_EVERY", 3)


class Fit:
    """(model(ids) − 2·ids)², with noise that depends on torch's random state."""

    def __init__(self, model: nn.Linear) -> None:
        self.model = model
        self.begun: list[tuple[int, float]] = []
        self.seen: list[list[list[int]]] = []

    def parameter_groups(self) -> list[dict[str, Any]]:
        return [{"params": [self.model.weight]}]

    def loss(self, model: nn.Module, ids: Tensor) -> tuple[Tensor, Mapping[str, float]]:
        self.seen.append(ids.tolist())
        x = ids.float() / 10
        noise = 0.01 * torch.randn(x.shape)
        return (model(x) + noise - 2 * x).square().mean(), {"size": float(len(ids))}

    def begin(self, step: int, fraction: float) -> None:
        self.begun.append((step, fraction))


class _StopError(Exception):
    pass


def schedule(**settings: Any) -> Schedule:
    defaults: dict[str, Any] = {
        "steps": 10, "minutes": None, "batch": 2, "learning_rate": 0.05, "decay": "linear", "warmup": 0,
        "betas": (0.9, 0.95), "seed": 5, "device": "cpu",
    }  # fmt: skip
    return Schedule(**(defaults | settings))


def pool(seed: int = 0) -> TokenPool:
    windows = np.random.default_rng(seed).integers(0, 20, (12, LENGTH))
    return TokenPool(windows=windows, record={}, count=2)


def fit(
    folder: Path, settings: Schedule, *, stop: int | None = None, text: int = 0, start: int = 1
) -> tuple[nn.Linear, Fit, TrainReport | None, list[tuple[str, int, int]]]:
    """Train; `stop` raises in the progress call of that step, as Ctrl-C does."""
    torch.manual_seed(start)
    model = nn.Linear(LENGTH, LENGTH)
    objective, shown = Fit(model), []

    def progress(what: str, done: int, total: int) -> None:
        shown.append((what, done, total))
        if stop is not None and len(shown) == stop:
            raise _StopError

    try:
        report = train(
            model, objective, pool(text), settings, folder, progress, what="fitting", note=lambda _: None
        )
    except _StopError:
        report = None
    return model, objective, report, shown


def test_it_learns_and_reports(tmp_path: Path) -> None:
    model, objective, report, shown = fit(tmp_path, schedule(steps=60))
    assert report is not None
    assert (report.steps, report.tokens) == (60, 60 * 2 * LENGTH)
    assert report.last["loss"] < 0.5 * report.first["loss"]
    assert report.last["size"] == 2.0
    assert [done for _, done, _ in shown] == list(range(1, 61))
    assert shown[-1][0] == "fitting: size 2" and shown[-1][2] == 60
    assert objective.begun == [(step, pytest.approx(step / 60)) for step in range(60)]
    assert not model.bias.requires_grad and model.bias.grad is None


@pytest.mark.parametrize("stop", [1, 4, 9, 10])
@pytest.mark.parametrize("optimizer", ["adamw", "adafactor"])
def test_interrupted_steps_end_in_the_same_parameters(tmp_path: Path, stop: int, optimizer: str) -> None:
    settings = schedule(optimizer=optimizer)
    whole, _, expected, _ = fit(tmp_path / "whole", settings)
    fit(tmp_path / "cut", settings, stop=stop)
    resumed, objective, report, _ = fit(tmp_path / "cut", settings)
    assert torch.equal(resumed.weight, whole.weight)
    assert report is not None and expected is not None
    assert (report.first, report.last) == (expected.first, expected.last)
    # Steps after the latest whole checkpoint are repeated, none before it.
    assert [step for step, _ in objective.begun] == list(range((stop - 1) // 3 * 3, 10))


def test_a_finished_run_is_not_run_again(tmp_path: Path) -> None:
    whole, *_ = fit(tmp_path, schedule())
    again, objective, report, _ = fit(tmp_path, schedule())
    assert not objective.seen and report is not None and report.steps == 10
    assert torch.equal(again.weight, whole.weight)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-00000010"]


@pytest.mark.parametrize("other", [{"learning_rate": 0.1}, {"text": 1}, {"start": 2}])
def test_a_checkpoint_of_another_run_is_discarded(tmp_path: Path, other: dict[str, Any]) -> None:
    def run(folder: Path, stop: int | None, text: int = 0, start: int = 1, **settings: Any) -> nn.Linear:
        return fit(folder, schedule(**settings), stop=stop, text=text, start=start)[0]

    run(tmp_path / "cut", 7)
    assert torch.equal(
        run(tmp_path / "cut", None, **other).weight, run(tmp_path / "new", None, **other).weight
    )


def test_what_was_half_written_is_ignored(tmp_path: Path) -> None:
    whole, *_ = fit(tmp_path / "whole", schedule())
    fit(tmp_path / "cut", schedule(), stop=5)
    (tmp_path / "cut" / "partial").mkdir()
    (tmp_path / "cut" / "partial" / "model.safetensors").write_bytes(b"half")
    resumed, *_ = fit(tmp_path / "cut", schedule())
    assert torch.equal(resumed.weight, whole.weight)


@pytest.mark.parametrize("taken", [10, 600, 1500])
def test_a_disk_that_refuses_the_state_is_explained(tmp_path: Path, taken: int) -> None:
    """No file may have more than `taken` bytes, which stops the writers in safetensors and in torch."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (taken, limits[1]))
    try:
        with refused():
            fit(tmp_path, schedule())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    whole, *_ = fit(tmp_path / "whole", schedule())
    resumed, *_ = fit(tmp_path, schedule())
    assert torch.equal(resumed.weight, whole.weight)


def test_an_unreadable_state_is_explained(tmp_path: Path) -> None:
    fit(tmp_path, schedule(), stop=5)
    (file,) = tmp_path.glob("checkpoint-*/optimizer.bin")
    file.write_bytes(file.read_bytes()[:-100])
    with refused():
        fit(tmp_path, schedule())


@pytest.fixture
def ticking(monkeypatch: pytest.MonkeyPatch) -> None:
    """The loop's clock goes on by 0.1 s each time that it is read: twice a step."""
    monkeypatch.setattr(loop, "time", SimpleNamespace(monotonic=count(0, 0.1).__next__))


@pytest.mark.usefixtures("ticking")
def test_the_budget_in_minutes_ends_it(tmp_path: Path) -> None:
    _, objective, report, shown = fit(tmp_path, schedule(steps=None, minutes=0.02))
    assert report is not None
    assert (report.steps, report.seconds) == (6, pytest.approx(1.2))
    fractions = [fraction for _, fraction in objective.begun]
    assert fractions == sorted(fractions) and fractions[0] >= 0.0 and fractions[-1] < 1.0
    assert shown[-1][1:] == (1, 1)


@pytest.mark.usefixtures("ticking")
def test_minutes_before_an_interruption_count(tmp_path: Path) -> None:
    fit(tmp_path, schedule(steps=4, minutes=0.02))
    state = tmp_path / "checkpoint-00000004" / "run.json"
    state.write_text(state.read_text().replace('"seconds": 0.', '"seconds": 100.'))
    _, objective, report, _ = fit(tmp_path, schedule(steps=4, minutes=0.02))
    assert report is not None and report.seconds > 100.0 and not objective.seen


@pytest.mark.parametrize("steps", [0, 3])
def test_whichever_budget_is_spent_first_ends_it(tmp_path: Path, steps: int) -> None:
    _, objective, report, _ = fit(tmp_path, schedule(steps=steps, minutes=60.0))
    assert report is not None and report.steps == len(objective.seen) == steps
    assert bool(report.first) == bool(report.last) == bool(steps)


def test_the_learning_rate_rises_and_falls_to_zero() -> None:
    linear, cosine = schedule(warmup=3), schedule(decay="cosine")
    assert [round(linear.factor(step, step / 10), 3) for step in range(5)] == [0.25, 0.45, 0.6, 0.7, 0.6]
    assert linear.factor(10, 1.0) == 0.0
    assert (cosine.factor(0, 0.0), cosine.factor(5, 0.5)) == (1.0, pytest.approx(0.5))
    assert cosine.factor(10, 1.0) == pytest.approx(0.0)


def test_the_loss_that_is_no_number_stops_it(tmp_path: Path) -> None:
    class Broken(Fit):
        def loss(self, model: nn.Module, ids: Tensor) -> tuple[Tensor, Mapping[str, float]]:
            loss, figures = super().loss(model, ids)
            return loss * (math.nan if len(self.seen) == 3 else 1.0), figures

    model = nn.Linear(LENGTH, LENGTH)
    with refused():
        train(
            model,
            Broken(model),
            pool(),
            schedule(),
            tmp_path,
            lambda *_: None,
            what="fitting",
            note=pytest.fail,
        )


def test_gradients_are_clipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The norm is taken over all gradients together, as the optimizer gets them."""
    norms: list[float] = []

    def watch(optimizer: torch.optim.Optimizer, *_: object) -> None:
        grads = [one.grad.flatten() for group in optimizer.param_groups for one in group["params"]]
        norms.append(float(torch.cat(grads).norm()))

    hook = register_optimizer_step_pre_hook(watch)
    try:
        fit(tmp_path / "plain", schedule())
        plain, norms = norms, []
        monkeypatch.setattr(loop, "_LARGEST_NORM", 1e-3)
        fit(tmp_path / "clipped", schedule())
    finally:
        hook.remove()
    assert len(plain) == 10 and min(plain) > 1e-2
    assert norms == pytest.approx([1e-3] * 10, rel=1e-2)


def test_batches_are_those_of_the_pool(tmp_path: Path) -> None:
    _, objective, _, _ = fit(tmp_path, schedule(steps=7))
    batches = pool().batches(2, seed=5)
    assert objective.seen == [next(batches).tolist() for _ in range(7)]


@pytest.mark.usefixtures("ticking")
@pytest.mark.parametrize(("budget", "told"), [({"steps": 24}, 0), ({"steps": 30}, 1), ({"minutes": 0.1}, 1)])
def test_many_passes_over_text_are_noted(tmp_path: Path, budget: dict[str, Any], told: int) -> None:
    """24 steps of two windows are four passes over 12 windows."""
    notes: list[str] = []
    model = nn.Linear(LENGTH, LENGTH, bias=False)
    settings = schedule(**({"steps": None} | budget))
    found = train(model, Fit(model), pool(), settings, tmp_path, lambda *_: None, what="x", note=notes.append)
    assert len(notes) == told
    assert all(f"goes {found.steps * 2 / 12:.0f} times over its 48 tokens" in line for line in notes)
