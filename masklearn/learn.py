"""The whole stage: a checkpoint and a recipe to a MaskSet."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from masklearn.checkpoint import Checkpoint
from masklearn.coverage import covered_linears_of
from masklearn.maskset import LinearMask, MaskSet
from masklearn.recipe import LearnRecipe, Method
from masklearn.select import select
from masklearn.tiles import tile_weights

__all__ = ["LearnRecipe", "Method", "learn"]


def learn(
    model_dir: str | Path,
    recipe: LearnRecipe,
    progress: Callable[[str, int, int], object] | None = None,
) -> MaskSet:
    """Learn hybrid masks for every covered linear of a model directory.

    progress: called with (what is done, done, total). The result depends on the checkpoint's bytes, the recipe
    and the text alone. Weights are read one at a time (magnitude) or one block at a time (wanda); kept until
    the end are the patterns, a byte per 4 weights. PatchCompileError: see `Checkpoint.open`,
    `covered_linears_of`, `calibration_windows` and `stream_blocks`.
    """
    from masklearn.methods import METHODS

    report = progress or _silent
    checkpoint = Checkpoint.open(model_dir)
    coverage = covered_linears_of(checkpoint, recipe.include, recipe.exclude)
    patterns: dict[str, NDArray[np.uint8]] = {}
    scores: dict[str, NDArray[np.float32]] = {}
    for name, candidate in METHODS[recipe.method](checkpoint, coverage, recipe, report):
        patterns[name], scores[name] = candidate.pattern, candidate.score
    weights = {name: tile_weights(shape, recipe.tile) for name, shape in coverage.linears.items()}
    tiles = select({name: scores[name] for name in coverage.linears}, weights, recipe.ratio)
    masks = {
        name: LinearMask.from_candidate(recipe.tile, tiles[name], patterns.pop(name))
        for name in coverage.linears
    }
    return MaskSet(
        masks,
        method=recipe.method.value,
        seed=recipe.seed,
        base_model=checkpoint.path.resolve().name,
        base_sha256=checkpoint.fingerprint(),
        ratio_asked=recipe.ratio,
        extra={"windows": recipe.windows, "length": recipe.length, "skipped": dict(coverage.skipped)},
    )


def _silent(_what: str, _done: int, _total: int) -> None:
    """No progress is wanted."""
