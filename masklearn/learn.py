"""The whole stage: a checkpoint and a recipe to a MaskSet and the surviving weights' values."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from masklearn.budget import Budget
from masklearn.checkpoint import Checkpoint
from masklearn.coverage import covered_linears_of
from masklearn.maskset import LinearMask, MaskSet
from masklearn.recipe import Criterion, LearnRecipe, Method, Repair
from masklearn.select import select
from masklearn.task import Progress, Task
from masklearn.tiles import tile_weights
from masklearn.weights import WeightStore

__all__ = ["Criterion", "LearnRecipe", "Learned", "Method", "Repair", "learn", "learn_task"]

Tiles = Mapping[str, NDArray[np.bool_]]
Patterns = dict[str, NDArray[np.uint8]]

# Methods that train masks, which are compared with their prior's; that solve the surviving weights again for the
# final masks; that repair them unless told not to.
_TRAINED = (Method.PATCH_JOINT, Method.PATCH_TILE, Method.MASKLLM)
_SOLVE = (Method.ONESHOT, Method.SPARSEGPT)
_REPAIR = (Method.ONESHOT, *_TRAINED)


@dataclass(frozen=True, eq=False)
class Learned:
    """masks: the MaskSet; checkpoint: the model, with new values of surviving weights where the method or the
    repair gave any (`checkpoint.new` holds them, in the scratch folder); the masks are not applied to it.
    """

    masks: MaskSet
    checkpoint: Checkpoint


def learn(
    model_dir: str | Path,
    recipe: LearnRecipe,
    scratch: Path,
    progress: Progress | None = None,
    note: Callable[[str], object] | None = None,
) -> Learned:
    """Learn hybrid masks for every covered linear of a model directory, and new weights to go with them.

    scratch: a folder for new weights, for what does not fit in memory and for training state, which a later call
    with the same arguments goes on from; progress: called with (what is done, done, total); note: called with
    lines for a person. The result depends on the checkpoint's bytes, the recipe and the text alone, unless the
    recipe bounds the minutes. PatchCompileError: see `Checkpoint.open`, `covered_linears_of`, `token_pool` and
    `stream_blocks`.
    """
    checkpoint = Checkpoint.open(model_dir)
    coverage = covered_linears_of(checkpoint, recipe.include, recipe.exclude)
    return learn_task(Task(checkpoint, coverage, recipe, scratch, progress or _silent, note or _unsaid))


def learn_task(task: Task) -> Learned:
    """`learn` for a task that is already set up, such as one that shares its text with others."""
    from masklearn.methods import METHODS

    recipe, linears = task.recipe, task.coverage.linears
    budget = Budget.of(recipe.ratio, recipe.per_layer)
    if left_dense := budget.left_dense(list(linears)):  # the patterns' faults are also found before any work
        task.note(left_dense)
    patterns: Patterns = {}
    scores: dict[str, NDArray[np.float32]] = {}
    for name, candidate in METHODS[recipe.method](task):
        patterns[name], scores[name] = candidate.pattern, candidate.score
    areas = {name: tile_weights(shape, recipe.tile) for name, shape in linears.items()}
    tiles = select({name: scores[name] for name in linears}, areas, budget)
    return _finish(task, tiles, patterns, budget)


def _finish(task: Task, tiles: Tiles, patterns: Patterns, budget: Budget) -> Learned:
    """Weights for the final masks: solved, then repaired, as the recipe and the method say."""
    recipe, store = task.recipe, WeightStore(task.scratch / "weights")
    extra: dict[str, Any] = {"skipped": dict(task.coverage.skipped), "budget": budget.record()}
    if recipe.method in _TRAINED:
        from masklearn.methods.gradient.contest import solve_best

        tiles, patterns, extra["train"] = solve_best(task, tiles, patterns, store)
    elif recipe.method in _SOLVE:
        from masklearn.solve import solve

        patterns = solve(task, tiles, store)
    masks = {
        name: LinearMask.from_candidate(recipe.tile, tiles[name], patterns.pop(name))
        for name in task.coverage.linears
    }
    checkpoint = task.checkpoint.with_weights(store)
    if recipe.repairs:
        from masklearn.repair import repair

        extra["repair"] = repair(task.of(checkpoint), masks, store)
    if "text" in task.__dict__:
        extra["text"] = dict(task.text.record)
    return Learned(_mask_set(task, masks, budget, extra), checkpoint)


def _mask_set(
    task: Task, masks: Mapping[str, LinearMask], budget: Budget, extra: Mapping[str, Any]
) -> MaskSet:
    areas = {name: tile_weights(shape, task.recipe.tile) for name, shape in task.coverage.linears.items()}
    return MaskSet(
        masks,
        method=task.recipe.method.value,
        seed=task.recipe.seed,
        base_model=task.checkpoint.path.resolve().name,
        base_sha256=task.checkpoint.fingerprint(),
        ratio_asked=budget.ratio(areas),
        extra=extra,
    )


def _silent(_what: str, _done: int, _total: int) -> None:
    """No progress is wanted."""


def _unsaid(_line: str) -> None:
    """Nobody reads."""
