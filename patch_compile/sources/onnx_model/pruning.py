"""Learned or given masks of an ONNX file, and the pruned model: the same graph with new and masked weights."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray
from typing_extensions import override

from masklearn import FoundMasks, LearnRecipe, Requires, chooser_of_recipe, find_masks, method_of
from masklearn.base.threads import threads_of_torch
from masklearn.choice.solve import Chooser
from masklearn.masks.linear_mask import LinearMask
from masklearn.masks.maskset import MaskSet
from masklearn.masks.record import MaskRecord
from masklearn.masks.tiles import weights_of_tiles
from masklearn.model.prune import masked_weight
from masklearn.model.store import WeightStore
from patch_compile.onnx_io.runnable import runnable_onnx
from patch_compile.onnx_io.write import lazy_tensor, write_onnx
from patch_compile.passes.linears import Linear
from patch_compile.progress import Progress, Update
from patch_compile.sources.onnx_model.facts import OnnxFacts
from patch_compile.sources.onnx_model.feed import LACKS, OnnxFeed, gather_moments, write_probe
from patch_compile.sources.pruning import Pruning

if TYPE_CHECKING:
    import onnx_ir as ir


@dataclass(frozen=True)
class OnnxPruning(Pruning):
    """Masks of an ONNX file.

    dtype: type of packed weights; store: new weights `[N, K]` by linear, before masking. It is None for given masks,
    whose weights are in the model.
    """

    masks: MaskSet
    model: ir.Model
    linears: Mapping[str, Linear]
    dtype: ir.DataType
    store: WeightStore | None = None

    @property
    @override
    def has_new_weights(self) -> bool:
        return self.store is not None and bool(self.store.names())

    @override
    def write(self, path: Path, update: Update) -> None:
        write_pruned(self.model, self.linears, self.masks, self.store, self.dtype, path, update)


def write_pruned(
    model: ir.Model,
    linears: Mapping[str, Linear],
    masks: Mapping[str, LinearMask],
    store: WeightStore | None,
    dtype: ir.DataType,
    path: Path,
    progress: Callable[[str, int, int], object],
) -> None:
    """Write `path` (+ .data) with one weight in memory at a time. The model's weights are replaced by lazy tensors.

    Weights of linears with pruned tiles or new values are rounded to `dtype`, the type that they are packed in, and stored
    in their original type. Other weights stay unchanged, bit for bit. store: new values `[N, K]` by linear, before masking.
    """
    sparse = [name for name in linears if masks[name].kinds.any() or (store and name in store)]
    for done, name in enumerate(sparse, start=1):
        linear, tensor = linears[name], linears[name].weight.const_value
        assert tensor is not None

        def make(name: str = name, done: int = done, tensor: ir.TensorProtocol = tensor) -> NDArray[Any]:
            progress(name, done, len(sparse))
            new = store is not None and name in store
            weight = store.read(name) if store and new else linears[name].rounded(tensor, dtype)
            return linears[name].to_stored(masked_weight(weight, masks[name].keep()))

        shape = tensor.shape.numpy()
        linear.weight.const_value = lazy_tensor(str(linear.weight.name), shape, tensor.dtype, make)
    write_onnx(model, path)


def learn_pruning(
    facts: OnnxFacts, fingerprint: str, scratch: Path, progress: Progress, choose: Chooser | None
) -> OnnxPruning:
    """Learn masks of the file's linears, from their inputs when the model runs on the given inputs, or only from weights.

    fingerprint: of the file, for the record of the masks; choose: chooses tiles by their scores, None for the recipe's ratio
    over all linears.
    """
    shutil.rmtree(scratch, ignore_errors=True)  # left by an interrupted run
    model, linears = facts.read(facts.recipe.model)
    store, recipe, moments = WeightStore(scratch / "solved"), facts.recipe.learning(), None
    with threads_of_torch(facts.recipe.threads):
        if Requires.INPUTS in recipe.traits.needs:
            with progress.stage("inputs of linears") as update:
                probe = scratch / "probe.onnx"
                write_probe(model, linears, probe)
                runnable, folder = runnable_onnx(probe, scratch), scratch / "moments"
                moments = gather_moments(runnable, linears, facts.feeds, folder, update, facts.recipe.threads)
        with progress.stage("masks", phases=recipe.phases(loss=False)) as update:
            feed = OnnxFeed(linears, moments, recipe, facts.dtype, update, progress.note)
            found = find_masks(feed, store, choose or chooser_of_recipe(recipe, feed.shapes, progress.note))
    shutil.rmtree(scratch / "moments", ignore_errors=True)
    return OnnxPruning(_mask_set(facts, fingerprint, found), model, linears, facts.dtype, store)


def round_pruning(given: OnnxPruning, recipe: LearnRecipe, scratch: Path, progress: Progress) -> OnnxPruning:
    """Round the weights of given masks to the nearest numbers of the recipe's types. The grids are added to the masks."""
    from masklearn import round_without_inputs

    store = WeightStore(scratch / "rounded")
    with progress.stage("rounding") as update:
        feed = OnnxFeed(given.linears, None, recipe, given.dtype, update, progress.note)
        given.masks.grids.update(round_without_inputs(feed, given.masks, store))
    return replace(given, store=store)


def _mask_set(facts: OnnxFacts, fingerprint: str, found: FoundMasks) -> MaskSet:
    r, coverage, goal = facts.recipe.learning(), facts.coverage, found.choice.goal
    areas = weights_of_tiles(coverage.linears, r.tile)
    record = MaskRecord(skipped=dict(coverage.skipped), choice=found.record)
    if Requires.INPUTS in r.traits.needs:
        record.inputs = facts.feeds.words
    if criterion := method_of(r.method).criterion(r, LACKS):
        record.criterion = str(criterion)
    return MaskSet(
        found.masks,
        method=r.method,
        seed=r.seed,
        base_model=facts.recipe.model.name,
        base_sha256=fingerprint,
        ratio_asked=goal.asked(areas),
        record=record,
        grids=found.grids,
    )
