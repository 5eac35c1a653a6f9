"""A Hugging Face checkpoint as a source, however its graph is made: its linears, its files, and masks for them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path

from typing_extensions import override

from masklearn.model.checkpoint import Checkpoint
from masklearn.model.coverage import Coverage, covered_linears_of
from masklearn.model.folder import CONFIG, files_beside, left_out
from masklearn.model.hub import model_name, spelled
from masklearn.quant.grid import Grid
from masklearn.quant.table import WeightType
from patch_compile.artifacts.layout import MODEL
from patch_compile.planning.outline import Outline, outline_of
from patch_compile.recipe import Recipe
from patch_compile.sources.base import Source
from patch_compile.sources.plan_task import PlanTask
from patch_compile.sources.pruning import GivenMasks


class CheckpointModel(Source):
    """A checkpoint that masks prune."""

    texts = ("calib", "eval_text")
    pruned_file = MODEL
    pruned_words = "pruned checkpoint"
    to_report = "the model's config.json"

    def __init__(self, recipe: Recipe, checkpoint: Checkpoint) -> None:
        super().__init__(recipe.model)
        self._recipe, self._checkpoint = recipe, checkpoint
        self._notes: tuple[str, ...] = ()

    @property
    @override
    def recipe(self) -> Recipe:
        """The settings without changes: a checkpoint has no defaults of its own."""
        return self._recipe

    @property
    @override
    def name(self) -> str:
        """Name of the folder, after resolving links, or of the hub's model."""
        return model_name(spelled(self.model))

    @property
    @override
    def notes(self) -> Sequence[str]:
        return (*self._notes, *filter(None, [left_out(self.model)]))

    @property
    @override
    def files(self) -> Sequence[Path]:
        return (self.model / CONFIG, *self._checkpoint.files())

    @cached_property
    @override
    def coverage(self) -> Coverage:
        return covered_linears_of(self._checkpoint, self._recipe.include, self._recipe.exclude)

    @cached_property
    @override
    def fingerprint(self) -> str:
        return self._checkpoint.fingerprint()

    @override
    def fingerprint_of(self, pruned: Path) -> str:
        return Checkpoint.open(pruned).fingerprint()

    @override
    def files_of(self, pruned: Path) -> Sequence[Path]:
        return (pruned / CONFIG, *Checkpoint.open(pruned).files())

    @override
    def files_beside(self, model: Path) -> Mapping[str, Path]:
        return files_beside(model)

    @cached_property
    @override
    def outline(self) -> Outline:
        return outline_of(self._checkpoint, self.coverage, self._recipe.fuse)

    @cached_property
    @override
    def calibration_hash(self) -> str | None:
        from masklearn import open_text

        return None if self._recipe.calib is None else open_text(self._recipe.calib).fingerprint()

    @property
    @override
    def weights(self) -> int:
        return sum(math.prod(self._checkpoint.shape(name)) for name in self._checkpoint.names())

    def _check_scales(self) -> None:
        from patch_compile.passes.lowering.packed_initializers import check_scales

        for name, grid in self._kept_grids():
            check_scales(name, grid, self._recipe.dtype)

    @property
    @override
    def dequantised(self) -> int:
        return len(self._checkpoint.dequantised)

    @property
    @override
    def given_types(self) -> Mapping[str, WeightType]:
        return self._checkpoint.grids.types

    @cached_property
    @override
    def given(self) -> GivenMasks:
        """Masks of a quantised checkpoint's own weights get its grids: pruned weights are on them too."""
        found = super().given
        if self._recipe.weights is None and not found.masks.grids and found.weights == self.model:
            names = [name for name in found.masks if name in self._checkpoint.grids]
            found.masks.grids.update((name, self._checkpoint.grids[name]) for name in names)
        return found

    def _kept_grids(self) -> Iterator[tuple[str, Grid]]:
        """Yield the grids that are known before anything is learned."""
        grids = self._checkpoint.grids
        masks = self.given.masks.grids if self._recipe.mask is not None else {}
        yield from masks.items()
        for name, types in PlanTask.of(self).types.items():
            if self.given_types.get(name) in types and name not in masks:
                yield name, grids[name]
