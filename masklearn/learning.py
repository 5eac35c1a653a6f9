"""Learns hybrid masks for a model's linears by a recipe, and new values of the surviving weights."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from masklearn.base.errors import MaskLearnError
from masklearn.base.progress import OnStep, silent, unsaid
from masklearn.base.threads import settle_threads, threads_of_torch
from masklearn.choice.losses import Losses, RoundingLoss
from masklearn.choice.menu import left_out_of_auto, spell_types, undecided
from masklearn.choice.price import Choice
from masklearn.choice.solve import Chooser
from masklearn.feed import CodeArrays, Feed
from masklearn.masks.kinds.base import TileKind
from masklearn.masks.linear_mask import LinearMask
from masklearn.masks.maskset import MaskSet
from masklearn.masks.record import ChoiceRecord, MaskRecord, RepairRecord, TrainRecord
from masklearn.masks.tiles import expand_tiles, weights_of_tiles
from masklearn.methods import WithRounding, method_of
from masklearn.model.checkpoint import Checkpoint
from masklearn.model.coverage import Coverage, covered_linears_of
from masklearn.model.hub import model_name, spelled
from masklearn.model.store import WeightStore
from masklearn.quant.grid import Grid
from masklearn.quant.table import FLOAT16, with_rounded_inputs
from masklearn.recipe import LearnRecipe
from masklearn.task import Task, chooser_of_recipe, is_decided
from masklearn.text.calibrate import few_tokens
from masklearn.traits import lacking


@dataclass(frozen=True, eq=False)
class FoundMasks:
    """Result of a mask method.

    masks: masks by linear; choice: the choice of tiles and types that they are made of, with its record; train: record of a
    method that trains, else None; grids: grids of the quantised linears, on which their new weights lie.
    """

    masks: dict[str, LinearMask]
    choice: Choice
    record: ChoiceRecord
    train: TrainRecord | None
    grids: Mapping[str, Grid]


@dataclass(frozen=True, eq=False)
class Learned:
    """Result of learning.

    masks: the MaskSet; checkpoint: the model with the new values of surviving weights that the method, the repair or a
    permutation made (`checkpoint.new` holds them, in the scratch folder). The masks are not applied to its weights.
    """

    masks: MaskSet
    checkpoint: Checkpoint


def learn(
    model_dir: str | Path,
    recipe: LearnRecipe,
    scratch: Path,
    progress: OnStep | None = None,
    note: Callable[[str], object] | None = None,
    choose: Chooser | None = None,
) -> Learned:
    """Learn hybrid masks for every covered linear of a model directory, and new weights that fit the masks.

    The result depends on the checkpoint's bytes, the recipe and the text only, unless the recipe has a budget in minutes. On
    a CPU it may depend on the number of threads too (`LearnRecipe.threads`).

    scratch: folder for new weights, for data that does not fit in memory and for the state of training, from which a later
    call with the same arguments resumes; progress: see `OnStep`; note: called with lines for the user; choose: chooses
    tiles by their scores, None for the recipe's ratio over all linears.

    Raises MaskLearnError as `Checkpoint.open`, `covered_linears_of`, `token_pool` and `stream_blocks` do.
    """
    settle_threads()
    checkpoint = Checkpoint.open(model_dir)
    coverage = covered_linears_of(checkpoint, recipe.include, recipe.exclude)
    task = Task(checkpoint, coverage, recipe, scratch, progress or silent, note or unsaid, choose)
    if recipe.windows is not None and (line := few_tokens(recipe, recipe.windows, coverage.widest)):
        task.note(line)
    with threads_of_torch(recipe.threads):
        return learn_task(task)


def learn_task(task: Task) -> Learned:
    """Do the work of `learn` for an existing task, e.g. a task that shares its text with other tasks."""
    from masklearn.permute import permute
    from masklearn.smooth import folded, smooth_inputs
    from masklearn.stream.feed import CheckpointFeed

    recipe = task.recipe
    _check_types(task)
    choose = task.chooses or chooser_of_recipe(
        recipe, task.coverage.linears, task.note, task.checkpoint.grids.types
    )
    smoothed = smooth_inputs(task)
    if smoothed is not None:
        task = task.of(smoothed.checkpoint)
    permuted = permute(task) if recipe.permute else None
    if permuted is not None:
        task = task.of(permuted.checkpoint)
    solved = WeightStore(task.scratch / "solved", below=task.checkpoint.new)
    choosing = CheckpointFeed(task).chooses_types
    # Repaired weights are rounded after the repair.
    first = task.in_16_bits() if recipe.repairs and not choosing else task
    found = find_masks(
        CheckpointFeed(first),
        solved,
        choose,
        decided=is_decided(recipe, task.coverage.linears, task.checkpoint.grids.types) and not choosing,
        rounds=not recipe.repairs,
    )
    if choosing:
        recipe = recipe.model_copy(update={"weights": spell_types(found.choice.types)})
    task = first.changed(recipe=recipe)  # with the text that was read
    if choosing and smoothed is None and recipe.repairs and permuted is None:
        # int4, which loses by scaled inputs, was offered too; the weights are not rounded yet.
        smoothed = smooth_inputs(task)
        if smoothed is not None:
            folds, shifted = smoothed.folds, smoothed.record.shifted
            store = WeightStore(task.scratch / "folded", below=solved)
            folded(task.checkpoint.with_weights(solved), folds, store, shifted=shifted)
            task, solved = task.of(smoothed.checkpoint), store
    learned = _finish(task, found, solved)
    if smoothed is not None:
        learned.masks.folds.update(smoothed.folds)
        learned.masks.record.smoothed = smoothed.record
    if permuted is not None:
        learned.masks.orders.update(permuted.orders)
        learned.masks.record.permuted = permuted.record
    return learned


def find_masks(
    feed: Feed, store: WeightStore, choose: Chooser, *, decided: bool = False, rounds: bool = True
) -> FoundMasks:
    """Find the masks of a feed's linears with its recipe's method.

    store: receives new weights `[N, K]`, not yet masked, but rounded if the linear is quantised; decided: True if the goal
    leaves no choice of tiles. A method that solves patterns then does not score tiles. rounds: False keeps new weights in 16
    bits where `choose` chose another type. Raises MaskLearnError if the feed can't meet a need of the method, and as
    `quantised_types` does.
    """
    from masklearn.solvers.solve import round_without_inputs

    method = method_of(feed.recipe.method)
    if why := lacking(type(method), feed.why_not):
        raise MaskLearnError(
            f"The method {method.name} can't run on this model",
            f"{why[1]} The method needs {why[0]}.",
            "Name another method.",
        )
    if feed.chooses_types:
        feed.recipe.check_choice()
    for line in left_out_of_auto(feed.recipe.kinds, feed.shapes, feed.recipe.tile, feed.allowed_types):
        feed.note(line)
    areas = weights_of_tiles(feed.shapes, feed.recipe.tile)
    patterns: dict[str, dict[TileKind, NDArray[Any]]] = {}
    scores: dict[str, dict[TileKind, NDArray[np.floating]]] = {}
    rounding: dict[str, RoundingLoss] = {}
    if method.solves and decided:
        scores = {name: dict.fromkeys(feed.kinds[name], np.zeros(grid.shape)) for name, grid in areas.items()}
    else:
        for name, candidates in method.candidates(feed):
            scores[name] = {kind: candidate.score for kind, candidate in candidates.items()}
            if isinstance(candidates, WithRounding):
                rounding[name] = candidates.rounding
            if not method.solves:  # patterns take a byte per 4 weights of the model: keep them only if needed
                patterns[name] = {kind: candidate.pattern for kind, candidate in candidates.items()}
    of_tiles = {name: scores[name] for name in feed.shapes}
    if feed.chooses_types and not choose.chooses_types:
        raise undecided(feed.recipe.weights)
    choice = choose(Losses(of_tiles, areas, rounding))
    if feed.chooses_types:
        feed = feed.with_weights(spell_types(choice.types) if rounds else FLOAT16.name)
    codes: dict[str, CodeArrays] = {
        name: _codes(feed, name, choice.tiles.kinds[name], patterns.pop(name)) for name in list(patterns)
    }
    settled = method.settle(feed, choice.tiles.kinds, codes, store)
    masks = {
        name: LinearMask.from_codes(shape, feed.recipe.tile, settled.kinds[name], settled.codes.pop(name))
        for name, shape in feed.shapes.items()
    }
    grids = settled.grids or (round_without_inputs(feed, masks, store) if feed.types else {})
    return FoundMasks(masks, choice, choose.record(choice, masks, feed.kinds), settled.train, grids)


def round_given(
    checkpoint: Checkpoint,
    coverage: Coverage,
    masks: MaskSet,
    recipe: LearnRecipe,
    scratch: Path,
    progress: OnStep | None = None,
) -> Checkpoint:
    """Round the weights that belong to given masks to the nearest numbers of the recipe's weight types.

    The grids are added to `masks`. Returns the checkpoint with the rounded weights, which are in `scratch`.
    """
    from masklearn.solvers.solve import round_without_inputs
    from masklearn.stream.feed import CheckpointFeed

    store = WeightStore(scratch / "rounded", below=checkpoint.new)
    task = Task(checkpoint, coverage, recipe, scratch, progress or silent, unsaid)
    masks.grids.update(round_without_inputs(CheckpointFeed(task), masks, store))
    return checkpoint.with_weights(store)


def _codes(
    feed: Feed, name: str, chosen: NDArray[np.uint8], patterns: Mapping[TileKind, NDArray[Any]]
) -> dict[str, NDArray[Any]]:
    """Returns the codes of all groups by family; each tile has codes of its kind. chosen: codes of kinds `[grid]`."""
    codes: dict[str, NDArray[Any]] = {}
    for kind, pattern in patterns.items():
        assert kind.family is not None
        family = kind.family.name
        if family not in codes:
            codes[family] = pattern
            continue
        tiles = expand_tiles(chosen == kind.code, feed.shapes[name], feed.recipe.tile, kind.group)
        codes[family] = np.where(tiles, pattern, codes[family])
    return codes


def _check_types(task: Task) -> None:
    """Raises MaskLearnError, before any work, for types that do not fit their linears, and for a permutation of a
    quantised checkpoint, whose neighbours share scales."""
    from masklearn.stream.feed import CheckpointFeed

    types, given = CheckpointFeed(task).allowed_types, task.checkpoint.grids.types
    keeping = [name for name, kinds in types.items() if given.get(name) in kinds]
    if keeping and task.recipe.permute:
        raise MaskLearnError(
            f"{task.checkpoint.path} is quantised, and its channels can't be reordered",
            f"{keeping[0]}, for example, keeps the scales that the checkpoint gives to neighbouring weights.",
            "Leave `permute` out, or give the checkpoint that it was quantised from.",
        )


def _finish(task: Task, found: FoundMasks, solved: WeightStore) -> Learned:
    """Repair the weights if the recipe or the method asks for it, and make the MaskSet.

    Quantised weights are repaired in 16 bits and rounded afterwards; scales of int4 train last. Measured with int4 on
    all-MiniLM-L6-v2 before scales trained (2:4 tiles of 64x64 at ratio .45, 16 windows of 128 tokens, 40 steps of 4
    windows; relative error of the hidden states on other text): .247 in 16 bits and .266 in int4 without repair; .230
    repaired in 16 bits, and .246 when rounded after that. Repair that trains through the rounding (straight-through, scales
    fixed) ends at .252 from the rounded values, at .285 from the unrounded values.
    """
    record = MaskRecord(skipped=dict(task.coverage.skipped), choice=found.record)
    if found.train is not None:
        record.train = found.train
    checkpoint = task.checkpoint.with_weights(solved)
    if task.recipe.repairs:
        checkpoint, grids, record.repair = _repair_and_round(task, found.masks, solved)
        found = replace(found, grids=grids)
    if "text" in task.__dict__:
        record.text = task.text.record
    return Learned(_mask_set(task, found, record), checkpoint)


def _repair_and_round(
    task: Task, masks: Mapping[str, LinearMask], solved: WeightStore
) -> tuple[Checkpoint, dict[str, Grid], RepairRecord]:
    """Repair solved weights, round the weights of quantised linears on the inputs that reach them, and train their scales.
    Linears of type w8a8 round their inputs all the while.

    Returns the checkpoint with the new weights, the grids, and the record of the repair.
    """
    from masklearn.solvers.solve import round_weights
    from masklearn.stream.feed import CheckpointFeed
    from masklearn.training.repair import repair, repair_scales

    # Not in the store of the solved weights: a resumed run must start its repair from these again.
    types = CheckpointFeed(task).types
    task = task.of(task.checkpoint.rounding_inputs(with_rounded_inputs(types)))
    repaired = WeightStore(task.scratch / "repaired", below=solved)
    record = repair(task.of(task.checkpoint.with_weights(solved)), masks, repaired)
    if not record.kept:
        repaired = solved
    checkpoint = task.checkpoint.with_weights(repaired)
    if not types:
        return checkpoint, {}, record
    feed = CheckpointFeed(task.of(checkpoint))
    rounded = WeightStore(task.scratch / "rounded", below=repaired)
    grids = round_weights(feed, masks, rounded)
    checkpoint = task.checkpoint.with_weights(rounded)
    scaled = WeightStore(task.scratch / "scaled", below=rounded)
    trained, record = repair_scales(task.of(checkpoint), masks, grids, scaled, record)
    if trained:
        return task.checkpoint.with_weights(scaled), trained, record
    return checkpoint, grids, record


def _mask_set(task: Task, found: FoundMasks, record: MaskRecord) -> MaskSet:
    goal = found.choice.goal
    if goal.amount is None:
        ratio = goal.asked(weights_of_tiles(task.coverage.linears, task.recipe.tile))
    else:  # a saving is asked for: the reached ratio
        masks = found.masks.values()
        ratio = sum(mask.zeroed for mask in masks) / sum(mask.weights for mask in masks)
    return MaskSet(
        found.masks,
        method=task.recipe.method,
        seed=task.recipe.seed,
        base_model=model_name(spelled(task.checkpoint.path)),
        base_sha256=task.checkpoint.fingerprint(),
        ratio_asked=ratio,
        record=record,
        grids=found.grids,
    )
