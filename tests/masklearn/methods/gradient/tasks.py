"""Tasks of gradient methods on tiny models."""

from pathlib import Path
from typing import Any

from masklearn.recipe import LearnRecipe
from masklearn.task import Task
from tests.masklearn.tasks import task_of

TILE = (32, 32)


def make_task(
    model: Path, text: Path, scratch: Path, notes: list[str] | None = None, **settings: Any
) -> Task:
    """A task on four windows of the text. Notes go to `notes`."""
    defaults: dict[str, Any] = {"tile": TILE, "calib": str(text), "windows": 4, "length": 16, "device": "cpu"}
    kept = [] if notes is None else notes
    return task_of(model, LearnRecipe(**(defaults | settings)), scratch, note=kept.append)
