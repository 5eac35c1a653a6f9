"""Learns masks of tiny models on a short text, or makes a task for one step of learning."""

from collections.abc import Callable
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import pytest

from masklearn.base.progress import OnStep
from masklearn.learning import Learned, learn
from masklearn.model.checkpoint import Checkpoint
from masklearn.model.coverage import covered_linears_of
from masklearn.model.prune import write_pruned_checkpoint
from masklearn.recipe import LearnRecipe
from masklearn.task import Task

Note = Callable[[str], object]


def unexpected(line: str) -> Any:
    pytest.fail(line)


def task_of(
    model_dir: Path,
    recipe: LearnRecipe,
    scratch: Path | None = None,
    progress: OnStep = lambda *_: None,
    note: Note = unexpected,
) -> Task:
    """A task as `learn` makes it, with its scratch folder next to the model. By default a note is a failure: it says that
    something is amiss."""
    checkpoint = Checkpoint.open(model_dir)
    coverage = covered_linears_of(checkpoint, recipe.include, recipe.exclude)
    scratch = scratch or Path(mkdtemp(dir=model_dir.parent))
    return Task(checkpoint, coverage, recipe, scratch, progress, note)


class Tiny:
    """Learns by recipes of a few settings, in folders of the test; given: settings of all its recipes."""

    def __init__(self, folder: Path, text: Path, given: dict[str, Any]) -> None:
        self.folder = folder
        self.given = {"calib": str(text), "windows": 4, "length": 16, "repair": "none"} | given

    def recipe(self, **settings: Any) -> LearnRecipe:
        return LearnRecipe.parse(self.given | settings)

    def learn(self, model: Path, scratch: str = "scratch", **settings: Any) -> Learned:
        """settings: of the recipe, and `choose`, `progress` and `note` of `learn`."""
        how = {name: settings.pop(name) for name in ("choose", "progress", "note") if name in settings}
        return learn(model, self.recipe(**settings), self.folder / scratch, **how)

    def task(self, model: Path, scratch: str | None = None, note: Note = unexpected, **settings: Any) -> Task:
        """scratch: None for a new folder."""
        folder = None if scratch is None else self.folder / scratch
        return task_of(model, self.recipe(**settings), folder, note=note)

    def prune(self, learned: Learned, name: str = "pruned") -> Checkpoint:
        """The pruned checkpoint, which is written to the folder `name`."""
        write_pruned_checkpoint(learned.checkpoint, learned.masks, self.folder / name)
        return Checkpoint.open(self.folder / name)


@pytest.fixture
def tiny(tmp_path: Path, text_file: Path, request: pytest.FixtureRequest) -> Tiny:
    """A learner whose recipes have the SETTINGS of the test's module."""
    return Tiny(tmp_path, text_file, getattr(request.module, "SETTINGS", {}))
