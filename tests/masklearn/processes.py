"""Runs of one recipe in processes of their own, which may be killed and started again."""

import random
from pathlib import Path

from masklearn.recipe import LearnRecipe
from tests.forks import Forks

_SCRIPT = Path(__file__).with_name("run_task.py")


class Runs:
    """what, kind: arguments of run_task.py. The process of a run called X leaves its results in the folder X.out."""

    def __init__(
        self, what: str, model: Path, recipe: LearnRecipe, folder: Path, kind: str = "alone"
    ) -> None:
        self.what, self.model, self.recipe, self.folder, self.kind = what, model, recipe, folder, kind
        self.processes = 1 if kind == "alone" else 2

    def start(self, name: str) -> Forks:
        recipe, folders = self.recipe.model_dump_json(), (self.folder / name, self.folder / f"{name}.out")
        return Forks(_SCRIPT, self.what, self.model, recipe, *folders, self.kind, count=self.processes)

    def finish(self, name: str) -> Path:
        """Run to the end; returns the folder of the results."""
        assert self.start(name).wait() == [0] * self.processes
        return self.folder / f"{name}.out"

    def cut_and_resumed(self, name: str, steps: int) -> Path:
        """As `finish`, after all processes were killed by SIGKILL when the first had done some of the steps."""
        step = random.randrange(1, steps)
        print(f"{name} is killed at step {step}")  # which pytest shows of a test that fails
        run = self.start(name)
        assert str(step) in run.lines()
        run.kill()
        assert not list((self.folder / f"{name}.out").glob("*"))
        return self.finish(name)
