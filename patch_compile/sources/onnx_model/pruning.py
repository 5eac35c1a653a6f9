"""The stages of a build from an ONNX file that differ from those of a checkpoint: masks, and the hybrid ONNX."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from masklearn.checkpoint.store import WeightStore
from masklearn.learn import by_ratio, find_masks
from masklearn.masks.budget import Budget
from masklearn.masks.linear_mask import LinearMask
from masklearn.masks.maskset import MaskSet
from masklearn.masks.record import MaskRecord
from masklearn.masks.tiles import tile_weights
from masklearn.methods import method_of
from masklearn.traits import Need
from patch_compile.onnx_io.external import data_files
from patch_compile.onnx_io.runnable import runnable_onnx
from patch_compile.out.layout import PRUNED_ONNX, SCRATCH
from patch_compile.plan.lowering import plan_linears
from patch_compile.progress import Progress
from patch_compile.sources.onnx_model.feed import LACKS, OnnxFeed
from patch_compile.sources.onnx_model.find import find_onnx_linears
from patch_compile.sources.onnx_model.hybrid import write_onnx_hybrid
from patch_compile.sources.onnx_model.linears import OnnxLinear
from patch_compile.sources.onnx_model.moments import Moments, gather_moments, write_probe
from patch_compile.sources.onnx_model.pruned import write_pruned
from patch_compile.sources.onnx_model.read import read_onnx
from patch_compile.sources.onnx_model.source import OnnxJob, fingerprint_of

__all__ = ["write_onnx_masks", "write_planned"]

_UNPREDICTED = (
    "speed is predicted for checkpoints alone: a linear is plugin wherever a 64-wide slab of it is 2:4"
)


def write_onnx_masks(job: OnnxJob, masks_path: Path, progress: Progress, root: Path) -> None:
    """Write the masks and the pruned model; masks that come with new weights hold that model's sha256."""
    import onnx_ir as ir

    model = read_onnx(job.source)
    found = find_onnx_linears(job.source, model).linears
    linears, dtype = (
        {name: found[name] for name in job.coverage.linears},
        ir.DataType[job.recipe.dtype.upper()],
    )
    scratch = root / SCRATCH / "masks"
    shutil.rmtree(scratch, ignore_errors=True)  # of a run that was interrupted
    store = WeightStore(scratch / "solved")
    if job.recipe.mask is not None:
        masks = MaskSet.load(job.recipe.mask)
    else:
        masks = _learned(job, model, linears, store, dtype, progress, scratch)
    with progress.stage("pruned model") as update:
        write_pruned(model, linears, masks, store, dtype, root / PRUNED_ONNX, update)
    if masks.record.weights is not None or store.names():
        pruned = root / PRUNED_ONNX
        masks.record.weights = fingerprint_of((pruned, *data_files(read_onnx(pruned))))
    masks.save(masks_path)
    shutil.rmtree(scratch)


def write_planned(job: OnnxJob, masks: MaskSet, path: Path, progress: Progress, root: Path) -> dict[str, Any]:
    """Write the hybrid ONNX from the pruned model, and return plan.json: a row for each linear, and remarks."""
    import onnx_ir as ir

    model = read_onnx(root / PRUNED_ONNX)
    found, plan = (
        find_onnx_linears(root / PRUNED_ONNX, model).linears,
        plan_linears(masks, job.recipe.lowering),
    )
    dtype = ir.DataType[job.recipe.dtype.upper()]
    with progress.stage("pack") as update:
        path.parent.mkdir(parents=True, exist_ok=True)
        compiled = write_onnx_hybrid(model, found, masks, plan, dtype, path, update, fuse=job.recipe.fuse)
    return {"linears": [linear.row() for linear in compiled.values()], "remarks": [_UNPREDICTED]}


def _learned(
    job: OnnxJob,
    model: Any,
    linears: dict[str, OnnxLinear],
    store: WeightStore,
    dtype: Any,
    progress: Progress,
    scratch: Path,
) -> MaskSet:
    r, moments = job.recipe, None
    if Need.INPUTS in r.traits.needs:
        moments = _moments(job, model, linears, progress, scratch)
    with progress.stage("masks") as update:
        feed = OnnxFeed(linears, moments, r.learning(), dtype, update, progress.note)
        found = find_masks(feed, store, by_ratio(feed.recipe, linears, progress.note))
    return _mask_set(job, found.masks)


def _moments(
    job: OnnxJob, model: Any, linears: dict[str, OnnxLinear], progress: Progress, scratch: Path
) -> Moments:
    with progress.stage("inputs of linears") as update:
        probe = scratch / "probe.onnx"
        write_probe(model, linears, probe)
        return gather_moments(runnable_onnx(probe, scratch), linears, job.feeds, scratch / "moments", update)


def _mask_set(job: OnnxJob, masks: dict[str, LinearMask]) -> MaskSet:
    r = job.recipe.learning()
    budget = Budget.of(r.ratio, r.per_layer)
    areas = {name: tile_weights(shape, r.tile) for name, shape in job.coverage.linears.items()}
    record = MaskRecord(skipped=dict(job.coverage.skipped), budget=budget.record())
    if Need.INPUTS in r.traits.needs:
        record.inputs = job.feeds.words
    if criterion := method_of(r.method).criterion(r, LACKS):
        record.criterion = str(criterion)
    return MaskSet(
        masks,
        method=r.method,
        seed=r.seed,
        base_model=job.recipe.model.name,
        base_sha256=job.fingerprint,
        ratio_asked=budget.ratio(areas),
        record=record,
    )
