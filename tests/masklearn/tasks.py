"""Makes a task as `learn` does, for tests that call one step of learning."""

from pathlib import Path
from tempfile import mkdtemp

import pytest

from masklearn.checkpoint.checkpoint import Checkpoint
from masklearn.checkpoint.coverage import covered_linears_of
from masklearn.recipe import LearnRecipe
from masklearn.task import Task


def task_of(model_dir: Path, recipe: LearnRecipe) -> Task:
    """Scratch lies beside the model; a note is a failure, since a step says one only where something is amiss."""
    checkpoint = Checkpoint.open(model_dir)
    coverage = covered_linears_of(checkpoint, recipe.include, recipe.exclude)
    scratch = Path(mkdtemp(dir=model_dir.parent))
    return Task(checkpoint, coverage, recipe, scratch, lambda *_: None, lambda line: pytest.fail(line))
