"""The whole stage: a model's linears and a recipe to masks, and to the surviving weights' values."""

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
from masklearn.errors import PatchCompileError, UsageError
from masklearn.feed import Feed
from masklearn.masks.budget import Budget
from masklearn.masks.linear_mask import LinearMask
from masklearn.masks.maskset import MaskSet
from masklearn.masks.record import MaskRecord, TrainRecord
from masklearn.masks.score_summary import summarise_scores
from masklearn.masks.select import Selection, select
from masklearn.masks.tiles import tile_weights
from masklearn.methods import Method, method_of
from masklearn.progress import Progress
from masklearn.recipe import LearnRecipe
from masklearn.task import Task
from masklearn.traits import lacking

__all__ = ["Choose", "Found", "Learned", "by_ratio", "find_masks", "learn", "learn_task"]

Tiles = Mapping[str, NDArray[np.bool_]]
Patterns = dict[str, NDArray[np.uint8]]
Grids = Mapping[str, NDArray[Any]]
Choose = Callable[[Grids, Grids], tuple[Selection, Budget]]

# Ratios that leave no choice of tiles.
_DENSE, _UNIFORM = 0.0, 0.5


@dataclass(frozen=True, eq=False)
class Found:
    """masks: by linear; scores: of every tile, `[grid]`, whose unit is `unit` in words; tiles: those that `choose` made 2:4
    for `budget`, which a method may overrule; train: what a method that trains says of it.
    """

    masks: dict[str, LinearMask]
    scores: Grids
    unit: str
    tiles: Tiles
    budget: Budget
    train: TrainRecord | None


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
    from masklearn.permute import permute
    from masklearn.stream.feed import CheckpointFeed

    recipe = task.recipe
    _check_labels(task)
    decided = choose is None and recipe.ratio in (_DENSE, _UNIFORM)
    choose = choose or by_ratio(recipe, task.coverage.linears, task.note)
    permuted = permute(task) if recipe.permute else None
    if permuted is not None:
        task = task.of(permuted.checkpoint)
    solved = WeightStore(task.scratch / "solved", below=task.checkpoint.new)
    found = find_masks(CheckpointFeed(task), solved, choose, decided=decided)
    learned = _finish(task, found, solved)
    _record_scores(task, learned.masks, found)
    if permuted is not None:
        learned.masks.orders.update(permuted.orders)
        learned.masks.record.permuted = permuted.record
    return learned


def find_masks(feed: Feed, store: WeightStore, choose: Choose, *, decided: bool = False) -> Found:
    """The masks of a feed's linears by its recipe's method; new weights `[N, K]`, not masked yet, go to `store`.

    decided: the budget leaves no choice of tiles, so a method that solves patterns anyway need not score them.
    PatchCompileError when the feed lacks what the method needs.
    """
    method = method_of(feed.recipe.method)
    _check_needs(method, feed)
    areas = _areas(feed.shapes, feed.recipe)
    patterns: Patterns = {}
    scores: dict[str, NDArray[np.floating]] = {}
    if method.solves and decided:
        scores = {name: np.zeros(grid.shape) for name, grid in areas.items()}
    else:
        for name, candidate in method.candidates(feed):
            scores[name] = candidate.score
            if not method.solves:  # a byte per 4 weights of the model
                patterns[name] = candidate.pattern
    tiles, budget = choose({name: scores[name] for name in feed.shapes}, areas)
    settled = method.settle(feed, tiles, patterns, store)
    masks = {
        name: LinearMask.from_candidate(feed.recipe.tile, settled.tiles[name], settled.patterns.pop(name))
        for name in feed.shapes
    }
    unit = method.score_unit(feed.recipe, feed.lacks)
    return Found(masks, scores, unit, tiles, budget, settled.train)


def by_ratio(recipe: LearnRecipe, linears: Mapping[str, Any], note: Callable[[str], object]) -> Choose:
    """Tile maps of the recipe's ratio. PatchCompileError, now and before any work, for a pattern that fits no linear."""
    budget = Budget.of(recipe.ratio, recipe.per_layer)
    if left_dense := budget.left_dense(list(linears)):
        note(left_dense)
    return lambda scores, areas: (select(scores, areas, budget), budget)


def _check_needs(method: Method, feed: Feed) -> None:
    if why := lacking(type(method), feed.lacks):
        raise PatchCompileError(
            f"The method {method.name} can't run on this model",
            f"{why[1]} The method needs {why[0]}.",
            "Name another method.",
        )


def _record_scores(task: Task, masks: MaskSet, found: Found) -> None:
    """How the scores were spread, where they chose the tiles that the masks have: a contest may keep the prior's."""
    kept = masks.tile_maps()
    if any(not np.array_equal(found.tiles[name], kept[name]) for name in kept):
        return
    areas, scores = _areas(masks.shapes(), task.recipe), {name: found.scores[name] for name in kept}
    if summary := summarise_scores(scores, areas, found.tiles, found.budget, found.unit):
        masks.record.scores = summary


def _check_labels(task: Task) -> None:
    """Before any work: an encoder predicts no next token that repair could learn."""
    if task.recipe.repairs and task.recipe.label_weight and architecture_of(task.checkpoint).encoder:
        raise UsageError(
            "An encoder has no labels to repair on", "It predicts no next token.", "Leave --label-weight out."
        )


def _finish(task: Task, found: Found, solved: WeightStore) -> Learned:
    """The final weights: repaired where the recipe and the method say so."""
    record = MaskRecord(skipped=dict(task.coverage.skipped), budget=found.budget.record())
    if found.train is not None:
        record.train = found.train
    checkpoint = task.checkpoint.with_weights(solved)
    if task.recipe.repairs:
        from masklearn.training.repair import repair

        # Apart from the solved ones, which a run that goes on must start its repair from again.
        repaired = WeightStore(task.scratch / "repaired", below=solved)
        record.repair = repair(task.of(checkpoint), found.masks, repaired)
        checkpoint = task.checkpoint.with_weights(repaired)
    if "text" in task.__dict__:
        record.text = task.text.record
    return Learned(_mask_set(task, found.masks, found.budget, record), checkpoint)


def _mask_set(task: Task, masks: Mapping[str, LinearMask], budget: Budget, record: MaskRecord) -> MaskSet:
    areas = _areas(task.coverage.linears, task.recipe)
    return MaskSet(
        masks,
        method=task.recipe.method,
        seed=task.recipe.seed,
        base_model=task.checkpoint.path.resolve().name,
        base_sha256=task.checkpoint.fingerprint(),
        ratio_asked=_reached(masks) if budget.amount is not None else budget.ratio(areas),
        record=record,
    )


def _areas(shapes: Mapping[str, tuple[int, int]], recipe: LearnRecipe) -> dict[str, NDArray[np.int64]]:
    return {name: tile_weights(shape, recipe.tile) for name, shape in shapes.items()}


def _reached(masks: Mapping[str, LinearMask]) -> float:
    """The ratio, where none was asked for but a saving."""
    return sum(mask.zeroed for mask in masks.values()) / sum(mask.weights for mask in masks.values())


def _silent(_what: str, _done: int, _total: int) -> None:
    """No progress is wanted."""


def _unsaid(_line: str) -> None:
    """Nobody reads."""
