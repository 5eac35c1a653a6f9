"""The weights of a Hugging Face checkpoint, however its graph is made: its linears, its files, and masks for them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from typing_extensions import override

from masklearn import LearnRecipe
from masklearn.choice.solve import Chooser
from masklearn.masks.maskset import MaskSet
from masklearn.masks.name_globs import kinds_of
from masklearn.model.checkpoint import Checkpoint
from masklearn.model.coverage import Coverage, covered_linears_of
from masklearn.model.folder import CONFIG, left_out
from masklearn.model.hub import model_name, spelled
from masklearn.quant.table import WeightType
from patch_compile.artifacts.report import Kind
from patch_compile.planning.lowering import with_static_scales
from patch_compile.planning.outline import Outline, outline_of
from patch_compile.progress import Progress, Update
from patch_compile.recipe import Recipe
from patch_compile.sources.base import Weights
from patch_compile.sources.formats import CHECKPOINT
from patch_compile.sources.pruning import GivenMasks, Pruning, types_to_round


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


class CheckpointWeights(Weights):
    """A checkpoint that masks prune, and what its graph takes from it."""

    format = CHECKPOINT

    def __init__(self, recipe: Recipe, checkpoint: Checkpoint) -> None:
        self.model = recipe.model
        self._recipe, self._checkpoint = recipe, checkpoint
        self._notes: tuple[str, ...] = ()

    @property
    @override
    def kind(self) -> Kind:
        return Kind.ENCODER if self._checkpoint.architecture.encoder else Kind.DECODER

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

    @cached_property
    def outline(self) -> Outline:
        return outline_of(self._checkpoint, self.coverage, self._recipe.fuse)

    @cached_property
    @override
    def calibration_hash(self) -> str | None:
        from masklearn import open_text

        return None if self._recipe.calib is None else open_text(self._recipe.calib).fingerprint()

    @property
    @override
    def size(self) -> int:
        return sum(math.prod(self._checkpoint.shape(name)) for name in self._checkpoint.names())

    def _check_scales(self, allowed: Mapping[str, tuple[WeightType, ...]]) -> None:
        """Check the grids that are known before anything is learned. allowed: types that each linear may have."""
        from patch_compile.passes.lowering.packed_initializers import check_scales

        own = {
            name: self._checkpoint.grids[name]
            for name, types in allowed.items()
            if self.given_types.get(name) in types
        }
        of_masks = self.given.masks.grids if self._recipe.mask is not None else {}
        for name, grid in {**own, **of_masks}.items():
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
        given = super().given
        if self._recipe.weights is None and not given.masks.grids and given.weights == self.model:
            names = [name for name in given.masks if name in self._checkpoint.grids]
            given.masks.grids.update((name, self._checkpoint.grids[name]) for name in names)
        return given

    @override
    def learn(self, recipe: Recipe, scratch: Path, progress: Progress, choose: Chooser | None) -> Pruning:
        """Learn masks on text. Prints notes about the calibration text and about permuted channels."""
        from masklearn import learn

        if recipe.calib is None and recipe.reads_text:
            progress.note("calibration text: the model writes its own (no --calib given)")
        settings = recipe.learning()
        with progress.stage("masks", phases=settings.phases(loss=self.kind is Kind.DECODER)) as update:
            learned = learn(recipe.model, settings, scratch, update, progress.note, choose)
        if permuted := learned.masks.record.permuted:
            progress.note(
                f"permuted: the hidden channels of {permuted.parts} feed-forward parts; their dense outputs differ by"
                f" {permuted.dense_error:g} of their norm at most"
            )
        self._calibrate(learned.masks, learned.checkpoint, settings, scratch, progress)
        return CheckpointPruning(learned.masks, learned.checkpoint)

    @override
    def take_given(self, scratch: Path, progress: Progress) -> Pruning:
        from masklearn import round_given

        masks, checkpoint = self.given.masks, Checkpoint.open(self.given.weights)
        if types_to_round(masks, self._recipe.weights, self._recipe.mask, checkpoint.grids.types):
            with progress.stage("rounding") as update:
                checkpoint = round_given(
                    checkpoint, self.coverage, masks, self._recipe.learning(), scratch, update
                )
        self._calibrate(masks, checkpoint, self._recipe.learning(), scratch, progress)
        return CheckpointPruning(masks, checkpoint)

    def _calibrate(
        self, masks: MaskSet, checkpoint: Checkpoint, settings: LearnRecipe, scratch: Path, progress: Progress
    ) -> None:
        """Give static scales to the linears of type w8a8 that are lowered as `split`. Where X fits no single scale, the
        weights keep their values, but the linear is computed in 16 bits."""
        from masklearn import Task, find_static_scales

        types = {name: grid.type for name, grid in masks.grids.items() if grid.activations is None}
        names = with_static_scales(self._recipe.lowering, list(masks), types)
        if not names:
            return
        with progress.stage("static scales") as update:
            task = Task(checkpoint, self.coverage, settings, scratch, update, progress.note)
            scales = find_static_scales(task, masks, names)
        for name in names:
            grid = masks.grids.pop(name)
            if name in scales:
                masks.grids[name] = replace(grid, activations=scales[name])
        outputs = sum(one.output is not None for one in scales.values())
        without = kinds_of(name for name in names if name not in scales)
        kept = f"; X in 16 bits in {', '.join(without)}" if without else ""
        progress.note(
            f"static scales: int8 X of {len(scales)} of {len(names)} linears, and int8 Y of {outputs}{kept}"
        )

    @override
    def weight(self, name: str) -> NDArray[np.float32]:
        from masklearn.model.linears import read_linear

        weight: NDArray[np.float32] = read_linear(self._checkpoint, name).numpy()
        return weight
