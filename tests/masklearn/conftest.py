"""Learns masks of tiny models on a short text."""

from pathlib import Path
from typing import Any

import pytest

from masklearn.learning import Learned, learn
from masklearn.model.checkpoint import Checkpoint
from masklearn.model.prune import write_pruned_checkpoint
from masklearn.recipe import LearnRecipe
from masklearn.task import Task
from tests.masklearn.tasks import Note, task_of, unexpected


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
        """scratch: None for a new folder. By default a note is a failure."""
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
