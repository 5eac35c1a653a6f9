"""What every step of learning is given: the model, what of it is covered, the recipe, and the text."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from masklearn.checkpoint.checkpoint import Checkpoint
from masklearn.checkpoint.coverage import Coverage
from masklearn.device import usable_device
from masklearn.progress import Progress
from masklearn.recipe import LearnRecipe
from masklearn.text.calibrate import TokenPool, token_pool
from masklearn.text.windows import wanted_windows

__all__ = ["Task"]


@dataclass(frozen=True, eq=False)
class Task:
    """checkpoint: the dense model; scratch: a folder for what does not fit in memory and for training state;
    note: says a line that a person should read.
    """

    checkpoint: Checkpoint
    coverage: Coverage
    recipe: LearnRecipe
    scratch: Path
    progress: Progress
    note: Callable[[str], object]

    @property
    def activations(self) -> Path:
        """Folder for hidden states that do not fit in memory."""
        return self.scratch / "activations"

    @cached_property
    def text(self) -> TokenPool:
        """Windows of the recipe's text, read or written when first asked for."""
        weights = sum(math.prod(shape) for shape in self.coverage.linears.values())
        training = wanted_windows(self.recipe, weights)
        return token_pool(self.checkpoint, self.recipe, self.progress, training=training)

    def with_recipe(self, recipe: LearnRecipe) -> "Task":
        """The same task with other settings of what is not the text; text that was already read is kept."""
        return self._changed(recipe=recipe)

    @property
    def bf16(self) -> bool:
        """Whether linears compute in bf16 while blocks are streamed and models trained; see `precision`."""
        from masklearn.checkpoint.precision import computes_in_bf16

        return computes_in_bf16(self.recipe.precision, usable_device(self.recipe.device))

    def of(self, checkpoint: Checkpoint) -> "Task":
        """The same task on a checkpoint with new weights; text that was already read is kept."""
        return self._changed(checkpoint=checkpoint)

    def _changed(self, **changes: Any) -> "Task":
        other = replace(self, **changes)
        if "text" in self.__dict__:
            other.__dict__["text"] = self.text
        return other
