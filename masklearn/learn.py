"""The whole stage: a checkpoint and a recipe to a MaskSet and the surviving weights' values."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from masklearn.checkpoint.architectures import architecture_of
from masklearn.checkpoint.checkpoint import Checkpoint
from masklearn.checkpoint.coverage import covered_linears_of
from masklearn.checkpoint.store import WeightStore
from masklearn.errors import UsageError
from masklearn.masks.budget import Budget
from masklearn.masks.maskset import LinearMask, MaskSet
from masklearn.masks.select import Selection, select
from masklearn.masks.tiles import tile_weights
from masklearn.methods.score_summary import score_unit, summarise_scores
from masklearn.progress import Progress
from masklearn.recipe import GRADIENT_METHODS, Criterion, LearnRecipe, Method, Repair
from masklearn.task import Task

__all__ = ["Criterion", "LearnRecipe", "Learned", "Method", "Repair", "learn", "learn_task"]

Tiles = Mapping[str, NDArray[np.bool_]]
Patterns = dict[str, NDArray[np.uint8]]
Grids = Mapping[str, NDArray[Any]]
Choose = Callable[[Grids, Grids], tuple[Selection, Budget]]

# Methods that choose patterns and solve the surviving weights when the tiles are chosen.
_SOLVE = (Method.ONESHOT, Method.SPARSEGPT)
# Ratios that leave no choice of tiles.
_DENSE, _UNIFORM = 0.0, 0.5


@dataclass(frozen=True, eq=False)
class Learned:
    """masks: the MaskSet; checkpoint: the model, with new values of surviving weights where the method, the repair
    or a permutation gave any (`checkpoint.new` holds them, in the scratch folder); the masks are not applied to it.
    """

    masks: MaskSet
    checkpoint: Checkpoint


def learn(
    model_dir: str | Path,
    recipe: LearnRecipe,
    scratch: Path,
    progress: Progress | None = None,
    note: Callable[[str], object] | None = None,
    choose: Choose | None = None,
) -> Learned:
    """Learn hybrid masks for every covered linear of a model directory, and new weights to go with them.

    scratch: a folder for new weights, for what does not fit in memory and for training state, which a later call
    with the same arguments goes on from; progress: called with (what is done, done, total); note: called with
    lines for a person; choose: (scores, areas) of `select` to the tile maps and the budget that they fill, None for the
    recipe's ratio. The result depends on the checkpoint's bytes, the recipe and the text alone, unless the
    recipe bounds the minutes. PatchCompileError: see `Checkpoint.open`, `covered_linears_of`, `token_pool` and
    `stream_blocks`.
    """
    checkpoint = Checkpoint.open(model_dir)
    coverage = covered_linears_of(checkpoint, recipe.include, recipe.exclude)
    task = Task(checkpoint, coverage, recipe, scratch, progress or _silent, note or _unsaid)
    return learn_task(task, choose)


def learn_task(task: Task, choose: Choose | None = None) -> Learned:
    """`learn` for a task that is already set up, such as one that shares its text with others."""
    from masklearn.methods import METHODS
    from masklearn.permute import permute

    recipe, linears = task.recipe, task.coverage.linears
    _check_labels(task)
    leaves_no_choice = choose is None and recipe.ratio in (_DENSE, _UNIFORM)
    choose = choose or _by_ratio(task)
    areas = {name: tile_weights(shape, recipe.tile) for name, shape in linears.items()}
    permuted = permute(task) if recipe.permute else None
    if permuted is not None:
        task = task.of(permuted.checkpoint)
    solves = recipe.method in _SOLVE
    patterns: Patterns = {}
    scores: dict[str, NDArray[np.floating]] = {}
    if solves and leaves_no_choice:
        scores = {name: np.zeros(grid.shape) for name, grid in areas.items()}
    else:
        for name, candidate in METHODS[recipe.method](task):
            scores[name] = candidate.score
            if not solves:  # a byte per 4 weights of the model
                patterns[name] = candidate.pattern
    tiles, budget = choose({name: scores[name] for name in linears}, areas)
    learned = _finish(task, tiles, patterns, budget)
    _record_scores(task, learned.masks, scores, tiles, budget)
    if permuted is not None:
        learned.masks.orders.update(permuted.orders)
        learned.masks.extra["permuted"] = dict(permuted.record)
    return learned


def _record_scores(task: Task, masks: MaskSet, scores: Grids, tiles: Tiles, budget: Budget) -> None:
    """How the scores were spread, where they chose the tiles that the masks have: a contest may keep the prior's."""
    kept = masks.tile_maps()
    if any(not np.array_equal(tiles[name], kept[name]) for name in kept):
        return
    areas = {name: tile_weights(shape, task.recipe.tile) for name, shape in masks.shapes().items()}
    unit = score_unit(task.recipe, encoder=architecture_of(task.checkpoint).encoder)
    if summary := summarise_scores({name: scores[name] for name in kept}, areas, tiles, budget, unit):
        masks.extra["scores"] = summary


def _check_labels(task: Task) -> None:
    """Before any work: an encoder predicts no next token that repair could learn."""
    if task.recipe.repairs and task.recipe.label_weight and architecture_of(task.checkpoint).encoder:
        raise UsageError(
            "An encoder has no labels to repair on", "It predicts no next token.", "Leave --label-weight out."
        )


def _by_ratio(task: Task) -> Choose:
    """Tile maps of the recipe's ratio; the faults of its patterns are found now, before any work."""
    budget = Budget.of(task.recipe.ratio, task.recipe.per_layer)
    if left_dense := budget.left_dense(list(task.coverage.linears)):
        task.note(left_dense)
    return lambda scores, areas: (select(scores, areas, budget), budget)


def _finish(task: Task, tiles: Tiles, patterns: Patterns, budget: Budget) -> Learned:
    """Weights for the final masks: solved, then repaired, as the recipe and the method say."""
    recipe, solved = task.recipe, WeightStore(task.scratch / "solved", below=task.checkpoint.new)
    extra: dict[str, Any] = {"skipped": dict(task.coverage.skipped), "budget": budget.record()}
    if recipe.method in GRADIENT_METHODS:
        from masklearn.methods.gradient.contest import solve_best

        tiles, patterns, extra["train"] = solve_best(task, tiles, patterns, solved)
    elif recipe.method in _SOLVE:
        from masklearn.solvers.sequential import solve

        patterns = solve(task, tiles, solved)
    masks = {
        name: LinearMask.from_candidate(recipe.tile, tiles[name], patterns.pop(name))
        for name in task.coverage.linears
    }
    checkpoint = task.checkpoint.with_weights(solved)
    if recipe.repairs:
        from masklearn.training.repair import repair

        # Apart from the solved ones, which a run that goes on must start its repair from again.
        repaired = WeightStore(task.scratch / "repaired", below=solved)
        extra["repair"] = repair(task.of(checkpoint), masks, repaired)
        checkpoint = task.checkpoint.with_weights(repaired)
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
        ratio_asked=_reached(masks) if budget.amount is not None else budget.ratio(areas),
        extra=extra,
    )


def _reached(masks: Mapping[str, LinearMask]) -> float:
    """The ratio, where none was asked for but a saving."""
    return sum(mask.zeroed for mask in masks.values()) / sum(mask.weights for mask in masks.values())


def _silent(_what: str, _done: int, _total: int) -> None:
    """No progress is wanted."""


def _unsaid(_line: str) -> None:
    """Nobody reads."""
