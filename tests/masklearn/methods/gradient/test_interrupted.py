"""Gradient runs that are killed and resumed, in one process and in several."""

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from masklearn.masks.kinds.table import TWO_FOUR
from masklearn.methods import method_of
from masklearn.recipe import LearnRecipe
from masklearn.stream.feed import CheckpointFeed
from tests.forks import Forks
from tests.masklearn.methods.gradient.tasks import TILE, make_task

_SCRIPT = Path(__file__).with_name("run_learn.py")
_STEPS = 8
# Every tile and most patterns change, so a run that lost a step would end in other masks.
_SETTINGS: dict[str, Any] = {
    "method": "patch-joint", "ratio": 0.35, "prior": "wanda", "steps": _STEPS, "learning_rate": 0.05,
    "repair": "none",
}  # fmt: skip

Arrays = dict[str, np.ndarray]


class Run:
    """Runs of one recipe, in which every process saves its candidates."""

    def __init__(self, model: Path, text: Path, folder: Path, kind: str) -> None:
        self.recipe = LearnRecipe(**_SETTINGS, tile=TILE, calib=str(text), windows=4, length=16, device="cpu")
        self.model, self.folder, self.kind = model, folder, kind
        self.processes = 1 if kind == "alone" else 2

    def start(self, name: str, masks: str = "") -> Forks:
        arguments = (
            self.model,
            self.recipe.model_dump_json(),
            self.folder / name,
            self.folder / f"{name}.out",
        )
        return Forks(_SCRIPT, *arguments, self.kind, masks, count=self.processes)

    def finish(self, name: str, masks: str = "") -> list[Arrays]:
        """Run to the end and return the candidates of every process."""
        assert self.start(name, masks).wait() == [0] * self.processes
        files = [self.folder / f"{name}.out{rank}.npz" for rank in range(self.processes)]
        return [dict(np.load(file)) for file in files]

    def kill_at(self, name: str, step: int) -> None:
        """Kill all processes by SIGKILL when the first has done `step`."""
        run = self.start(name)
        assert str(step) in run.lines()
        run.kill()
        assert not list(self.folder.glob(f"{name}.out*"))

    def cut_and_resumed(self, name: str) -> list[Arrays]:
        step = random.randrange(1, _STEPS)
        print(f"{name} is killed at step {step}")  # which pytest shows of a test that fails
        self.kill_at(name, step)
        return self.finish(name)


def assert_same(found: Arrays, expected: Arrays, tolerance: float = 0.0) -> None:
    assert sorted(found) == sorted(expected)
    for name, array in expected.items():
        np.testing.assert_allclose(found[name], array, rtol=tolerance, err_msg=name)


@pytest.mark.usefixtures("fp32")
def test_killed_and_resumed_ends_in_same_masks(make_model, text_file, tmp_path: Path) -> None:
    model = make_model()
    task = make_task(model, text_file, tmp_path / "whole", **_SETTINGS)
    found = method_of(_SETTINGS["method"]).candidates(CheckpointFeed(task))
    whole = {name: candidates[TWO_FOUR] for name, candidates in found}
    expected = {f"{name}.pattern": candidate.pattern for name, candidate in whole.items()}
    expected |= {f"{name}.score": candidate.score for name, candidate in whole.items()}
    (found,) = Run(model, text_file, tmp_path, "alone").cut_and_resumed("cut")
    assert_same(found, expected)


def test_several_processes_end_in_the_same_masks(make_model, text_file, tmp_path: Path) -> None:
    """All processes end with equal masks. Shards sum the gradient's norm in another order."""
    model = make_model()
    run = Run(model, text_file, tmp_path, "ddp")
    first, second = run.finish("whole", "masks")
    assert_same(first, second)
    masks = [(tmp_path / f"whole.out{rank}.safetensors").read_bytes() for rank in (0, 1)]
    assert masks[0] == masks[1]
    for found in run.cut_and_resumed("ddp"):
        assert_same(found, first)
    for found in Run(model, text_file, tmp_path, "fsdp").cut_and_resumed("fsdp"):
        assert_same(found, first, tolerance=1e-5)
