"""Baselines to compare a learned result with: the model pruned in simpler ways, evaluated on the same text.

    dense          the unpruned model
    dense-rounded  --method sparsegpt --ratio 0        nothing pruned, if the result has quantised linears: the part of
                                                       the result's loss that rounding causes
    uniform-2:4    --method sparsegpt --kinds 2:4 --ratio 0.5
    unstructured   SparseGPT without structure, the result's ratio in every linear: a reference that is not deployable

Baselines are not repaired. Their weights are SparseGPT's, in the result's weight types, and 16-bit in `unstructured`.
docs/howto/learning.md has the settings of other simple ways to prune.
"""

import shutil
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from masklearn.base.errors import MaskLearnError, UsageError
from masklearn.base.progress import OnStep, silent, unsaid
from masklearn.choice.goal import Goal
from masklearn.choice.menu import leaves_choice, named_types, spell_types
from masklearn.learning import Learned, learn_task
from masklearn.masks.kinds.base import BYTES_DENSE
from masklearn.masks.kinds.table import TWO_FOUR
from masklearn.masks.maskset import MaskSet
from masklearn.masks.tiles import weights_of_tiles
from masklearn.methods.sparsegpt import SparseGpt
from masklearn.model.checkpoint import Checkpoint
from masklearn.model.coverage import covered_linears_of
from masklearn.model.store import WeightStore
from masklearn.quality.record import Baseline, BaselineRow, BesideBaselines
from masklearn.quant.table import FLOAT16
from masklearn.recipe import LearnRecipe
from masklearn.task import Task
from masklearn.traits import Criterion, Repair

Windows = NDArray[np.int64]
Note = Callable[[str], object]
_RATIOS = {Baseline.ROUNDED: 0.0, Baseline.UNIFORM: 0.5}
_NO_MASKS = MaskSet({}, method="none", seed=0, base_model="", base_sha256="", ratio_asked=0.0)


def parse_baselines(names: str) -> tuple[Baseline, ...]:
    """Parse the value of `baselines`: `all`, or names separated by commas. Raises UsageError for an unknown name."""
    if names.strip() == "all":
        return tuple(Baseline)
    try:
        return tuple(dict.fromkeys(Baseline(name.strip()) for name in names.split(",")))
    except ValueError as error:
        raise UsageError(
            f"{names!r} does not name baselines",
            f"{error}.",
            f"Give all, or some of {', '.join(Baseline)}. docs/howto/learning.md has the settings of others.",
        ) from error


def baseline_settings(name: Baseline, recipe: LearnRecipe) -> LearnRecipe:
    """Returns the recipe of a baseline for a result of `recipe`, which is `recipe` itself if `learn` does not make it."""
    if name not in _RATIOS:
        return recipe
    changed = {
        "method": SparseGpt.name,
        "criterion": Criterion.MAGNITUDE,  # the cheapest, as only the ratio determines the tiles
        "repair": Repair.NONE,
        "permute": False,
        "ratio": _RATIOS[name],
        "per_layer": False,
        "bytes_per_weight": None,
        "kinds": TWO_FOUR.name,
    }
    return recipe.model_copy(update=changed)


def compare_with_baselines(
    model_dir: Path,
    recipe: LearnRecipe,
    pruned: Path,
    masks: MaskSet,
    seconds: float,
    names: Iterable[Baseline],
    windows: Windows,
    scratch: Path,
    progress: OnStep | None = None,
    note: Note | None = None,
) -> BesideBaselines:
    """Compare a result with baselines.

    pruned: folder of the result's pruned checkpoint; seconds: duration of learning it; windows: token ids
    `[count, length]` of held-out text. For the other arguments and the errors see `run_baselines`.
    """
    value = _perplexity(pruned, windows, recipe, progress)
    result = _row(masks.method, masks.ratio, value, seconds, masks.packed_bytes_per_weight)
    settings = with_types_of(masks, recipe)
    choice = masks.record.choice
    if choice and choice.gains:  # the asked ratio counts over some linears only
        settings = settings.model_copy(update={"ratio": masks.ratio, "per_layer": False})
    rows = run_baselines(model_dir, settings, names, windows, scratch, progress, note)
    return beside_baselines(result, rows, windows)


def with_types_of(masks: MaskSet, recipe: LearnRecipe) -> LearnRecipe:
    """Returns the recipe with the weight types that were chosen for a result. Its baselines use the same types.

    A recipe with settled types counts bytes of 16-bit weights: as many as the result's tiles would take.
    """
    if not leaves_choice(recipe.weights):
        return recipe
    types = {name: masks.grids[name].type if name in masks.grids else FLOAT16 for name in masks}
    changed: dict[str, Any] = {"weights": spell_types(types)}
    if recipe.bytes_per_weight is not None:
        changed["bytes_per_weight"] = masks.bytes_per_weight
    return recipe.model_copy(update=changed)


def beside_baselines(
    result: BaselineRow, baselines: Sequence[BaselineRow], windows: Windows
) -> BesideBaselines:
    """Compare a result with its baselines. All were evaluated in fp32 on `windows` `[count, length]`."""
    count, length = windows.shape
    # The dense model is not pruned.
    rivals = (row for row in baselines if row.deployable and row.name != Baseline.DENSE)
    beaten_by = tuple(row.name for row in rivals if row.beats(result))
    rows = (result, *baselines)
    return BesideBaselines(rows=rows, beaten_by=beaten_by, windows=count, length=length, dtype="float32")


def run_baselines(
    model_dir: Path,
    recipe: LearnRecipe,
    names: Iterable[Baseline],
    windows: Windows,
    scratch: Path,
    progress: OnStep | None = None,
    note: Note | None = None,
) -> list[BaselineRow]:
    """Returns a row for each baseline.

    windows: token ids `[count, length]`, on which models are evaluated in fp32 on the recipe's device; scratch: folder for
    one pruned checkpoint at a time, which is deleted. The calibration text is read once for all baselines.

    `dense-rounded` is left out, with a note, if no weights are quantised. Raises MaskLearnError as `learn` does, and for a
    model that does not predict tokens.
    """
    checkpoint = Checkpoint.open(model_dir)
    if checkpoint.architecture.encoder:
        raise MaskLearnError(
            f"{checkpoint.path} does not predict tokens",
            "Baselines are compared by perplexity, which an encoder does not have.",
            "Learn without baselines.",
        )
    coverage = covered_linears_of(checkpoint, recipe.include, recipe.exclude)
    task = Task(checkpoint, coverage, recipe, scratch, progress or silent, note or unsaid)
    rows = []
    for name in names:
        if name is Baseline.ROUNDED and not any(kind.quantised for kind in named_types(recipe.weights)):
            task.note(f"baseline {name}: left out. It is the dense model. No weights are quantised.")
        else:
            rows.append(_baseline_row(name, task, windows))
    return rows


def _baseline_row(name: Baseline, task: Task, windows: Windows) -> BaselineRow:
    """Make a baseline in its own folder, measure it, and delete the folder."""
    folder = task.scratch / f"baseline-{name.name.lower()}"
    shutil.rmtree(folder, ignore_errors=True)  # an interrupted run leaves it
    if name is not Baseline.DENSE:
        _ = task.text  # read once, here, for all baselines
    ours = task.changed(
        scratch=folder, progress=lambda what, *steps: task.progress(f"{name}: {what}", *steps)
    )
    try:
        start = time.perf_counter()
        learned, ratio, taken = learn_baseline(name, ours)
        seconds = time.perf_counter() - start
        value = measure(learned, windows, folder / "model", task.recipe, ours.progress)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    runs = name is not Baseline.UNSTRUCTURED  # no kernel runs it
    return _row(name, ratio, value, seconds, taken, deployable=runs)


def learn_baseline(name: Baseline, task: Task) -> tuple[Learned, float, float]:
    """Returns a baseline for a result of the task's recipe: its model, ratio, and bytes of a packed weight on average."""
    if name is Baseline.DENSE:
        return Learned(_NO_MASKS, task.checkpoint), 0.0, BYTES_DENSE
    if name is Baseline.UNSTRUCTURED:
        return *_unstructured(task), BYTES_DENSE
    learned = learn_task(task.changed(recipe=baseline_settings(name, task.recipe)))
    return learned, learned.masks.ratio, learned.masks.packed_bytes_per_weight


def _unstructured(task: Task) -> tuple[Learned, float]:
    """Prune every linear to the ratio that the result has, or whose removal saves the bytes that were asked for.

    SparseGPT without structure has no budget over all linears.
    """
    from masklearn.solvers.solve import solve_unstructured
    from masklearn.stream.feed import CheckpointFeed

    recipe, store = task.recipe, WeightStore(task.scratch / "weights")
    if recipe.bytes_per_weight is None:
        areas = weights_of_tiles(task.coverage.linears, recipe.tile)
        ratio = Goal.of_ratio(recipe.ratio, recipe.per_layer).ratio(areas)
    else:
        ratio = 1.0 - recipe.bytes_per_weight / BYTES_DENSE
    solve_unstructured(CheckpointFeed(task), ratio, store)
    return Learned(_NO_MASKS, task.checkpoint.with_weights(store)), ratio


def measure(
    learned: Learned, windows: Windows, folder: Path, recipe: LearnRecipe, progress: OnStep | None = None
) -> float:
    """Returns the perplexity of a learned result in fp32, with weights rounded to the checkpoint's type for deployment.

    folder: folder for its pruned checkpoint; windows: token ids `[count, length]`.
    """
    from masklearn.model.prune import write_pruned_checkpoint

    if learned.checkpoint.new is None and not learned.masks:
        return _perplexity(learned.checkpoint.path, windows, recipe, progress)
    write_pruned_checkpoint(learned.checkpoint, learned.masks, folder)
    return _perplexity(folder, windows, recipe, progress)


def _perplexity(model_dir: Path, windows: Windows, recipe: LearnRecipe, progress: OnStep | None) -> float:
    from masklearn.base.device import usable_device
    from masklearn.model.models import load_model
    from masklearn.quality.perplexity import perplexity

    return perplexity(load_model(model_dir).to(usable_device(recipe.device)), windows, progress)


def _row(
    name: str, ratio: float, value: float, seconds: float, taken: float, *, deployable: bool = True
) -> BaselineRow:
    return BaselineRow(
        name=str(name),
        ratio=ratio,
        perplexity=value,
        seconds=round(seconds, 1),
        deployable=deployable,
        bytes_per_weight=taken,
    )
