"""Tasks on tiny models."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from masklearn.checkpoint.checkpoint import Checkpoint
from masklearn.checkpoint.coverage import covered_linears_of
from masklearn.progress import Progress
from masklearn.recipe import LearnRecipe
from masklearn.task import Task

TILE = (32, 32)


def make_task(
    model: Path, text: Path, scratch: Path, notes: list[str] | None = None, **settings: Any
) -> Task:
    defaults: dict[str, Any] = {"tile": TILE, "calib": str(text), "windows": 4, "length": 16, "device": "cpu"}
    note = notes.append if notes is not None else lambda _: None
    return task_of(model, LearnRecipe(**(defaults | settings)), scratch, note=note)


def task_of(
    model: Path,
    recipe: LearnRecipe,
    scratch: Path,
    progress: Progress = lambda *_: None,
    note: Callable[[str], object] = lambda _: None,
) -> Task:
    checkpoint = Checkpoint.open(model)
    coverage = covered_linears_of(checkpoint, recipe.include, recipe.exclude)
    return Task(checkpoint, coverage, recipe, scratch, progress, note)
