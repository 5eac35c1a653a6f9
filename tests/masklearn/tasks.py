"""Makes a task as `learn` does, for tests that call one step of learning."""

from collections.abc import Callable
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import pytest

from masklearn.base.progress import OnStep
from masklearn.model.checkpoint import Checkpoint
from masklearn.model.coverage import covered_linears_of
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
    """A task with its scratch folder next to the model. By default a note is a failure: it says that something is amiss."""
    checkpoint = Checkpoint.open(model_dir)
    coverage = covered_linears_of(checkpoint, recipe.include, recipe.exclude)
    scratch = scratch or Path(mkdtemp(dir=model_dir.parent))
    return Task(checkpoint, coverage, recipe, scratch, progress, note)
