"""Input of every step of learning: the model, its covered linears, the recipe, and the text."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from masklearn.base.device import usable_device
from masklearn.base.progress import OnStep, silent, unsaid
from masklearn.masks.budget import Budget
from masklearn.masks.select import Choose, by_budget
from masklearn.model.checkpoint import Checkpoint
from masklearn.model.coverage import Coverage
from masklearn.quant.table import FLOAT16
from masklearn.recipe import LearnRecipe
from masklearn.text.calibrate import TokenPool, token_pool
from masklearn.text.windows import wanted_windows

__all__ = ["Task"]


@dataclass(frozen=True, eq=False)
class Task:
    """Input of every step of learning.

    checkpoint: the dense model; coverage: its covered linears; recipe: the settings; scratch: folder for data that does
    not fit in memory and for the state of training; progress: see `OnStep`; note: called with lines for the user; chooses:
    chooses tiles by their scores, None for the recipe's ratio over all linears.
    """

    checkpoint: Checkpoint
    coverage: Coverage
    recipe: LearnRecipe
    scratch: Path
    progress: OnStep = silent
    note: Callable[[str], object] = unsaid
    chooses: Choose | None = None

    @property
    def choose(self) -> Choose:
        """The function that chooses tiles by their scores."""
        return self.chooses or by_budget(Budget.of(self.recipe.ratio, self.recipe.per_layer))

    @property
    def activations(self) -> Path:
        """Folder for hidden states that do not fit in memory."""
        return self.scratch / "activations"

    @cached_property
    def text(self) -> TokenPool:
        """Windows of the recipe's text. The first access reads it, or lets the model write it."""
        weights = sum(math.prod(shape) for shape in self.coverage.linears.values())
        training = wanted_windows(self.recipe, weights)
        # A text that the model writes again may differ, on a GPU for example.
        keep = self.scratch / "checkpoint-text.safetensors"
        return token_pool(self.checkpoint, self.recipe, self.progress, training=training, keep=keep)

    def over_all(self) -> "Task":
        """Returns a copy whose ratio counts over all linears. It keeps text that was read."""
        return self._changed(chooses=None)

    def with_recipe(self, recipe: LearnRecipe) -> "Task":
        """Returns a copy with another recipe, whose settings of the text must be equal. It keeps text that was read."""
        return self._changed(recipe=recipe)

    def in_16_bits(self) -> "Task":
        """Returns a copy whose weights are not rounded to integers. It keeps text that was read."""
        return self.with_recipe(self.recipe.model_copy(update={"weights": FLOAT16.name}))

    @property
    def bf16(self) -> bool:
        """True if linears compute in bf16 while blocks are streamed and models trained; see `computes_in_bf16`."""
        from masklearn.model.precision import computes_in_bf16

        return computes_in_bf16(self.recipe.precision, usable_device(self.recipe.device))

    def of(self, checkpoint: Checkpoint) -> "Task":
        """Returns a copy with another checkpoint, such as one with new weights. It keeps text that was read."""
        return self._changed(checkpoint=checkpoint)

    def in_folder(self, scratch: Path, progress: OnStep) -> "Task":
        """Returns a copy with another scratch folder and another view of its progress. It keeps text that was read."""
        return self._changed(scratch=scratch, progress=progress)

    def _changed(self, **changes: Any) -> "Task":
        other = replace(self, **changes)
        if "text" in self.__dict__:
            other.__dict__["text"] = self.text
        return other
