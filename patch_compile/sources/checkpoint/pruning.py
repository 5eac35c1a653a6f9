"""Learned or given masks of a checkpoint, and the pruned checkpoint that is written with them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from typing_extensions import override

from masklearn.masks.maskset import MaskSet
from masklearn.model.checkpoint import Checkpoint
from patch_compile.progress import Progress, Update
from patch_compile.recipe import Recipe
from patch_compile.sources.pruning import Pruning

if TYPE_CHECKING:
    from masklearn.masks.select import Choose

__all__ = ["CheckpointPruning", "learn_checkpoint"]


@dataclass(frozen=True)
class CheckpointPruning(Pruning):
    """Masks of a checkpoint. checkpoint: the weights that belong to the masks, before masking."""

    masks: MaskSet
    checkpoint: Checkpoint

    @property
    @override
    def has_new_weights(self) -> bool:
        return self.checkpoint.new is not None and bool(self.checkpoint.new.names())

    @override
    def write(self, path: Path, update: Update) -> None:
        from masklearn.model.prune import write_pruned_checkpoint

        write_pruned_checkpoint(self.checkpoint, self.masks, path, update)


def learn_checkpoint(
    recipe: Recipe, scratch: Path, progress: Progress, choose: Choose | None, *, loss: bool
) -> CheckpointPruning:
    """Learn masks on text. Prints notes about the calibration text and about permuted channels.

    loss: True if the model has a next-token loss.
    """
    from masklearn import learn

    reads_text = bool(recipe.traits.needs) or recipe.repairs or recipe.permute
    if recipe.calib is None and reads_text:
        progress.note("calibration text: the model writes its own (no --calib given)")
    settings = recipe.learning()
    with progress.stage("masks", ahead=settings.phases(loss=loss)) as update:
        learned = learn(recipe.model, settings, scratch, update, progress.note, choose)
    if permuted := learned.masks.record.permuted:
        progress.note(
            f"permuted: the hidden channels of {permuted.parts} feed-forward parts; their dense outputs differ by"
            f" {permuted.dense_error:g} of their norm at most"
        )
    return CheckpointPruning(learned.masks, learned.checkpoint)
