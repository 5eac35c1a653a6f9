"""The command `compile`: checkpoint + MaskSet → hybrid ONNX, without an engine and without a proof."""

from __future__ import annotations

import importlib.metadata
import json
import time
from functools import partial
from pathlib import Path
from typing import Any

from masklearn.masks.maskset import MaskSet
from patch_compile.errors import PatchCompileError
from patch_compile.out.layout import ONNX, ONNX_FOLDER, PLAN, RECIPE
from patch_compile.out.manifest import SCHEMA, write_manifest
from patch_compile.out.workspace import Workspace, key_of, sha256_of, write_json
from patch_compile.passes import PassDump
from patch_compile.passes.write import export_graph, write_hybrid
from patch_compile.plan.lowering import plan_linears
from patch_compile.plan.outline import outline_of
from patch_compile.plan.settle_together import settle_together
from patch_compile.plan.summary import summarise_plan
from patch_compile.progress import Progress, quiet_libraries
from patch_compile.recipe import Recipe
from patch_compile.sources.checkpoint.source import Job, prepare_compiling

__all__ = ["compile_model"]


def compile_model(
    recipe: Recipe, *, dump_passes: Path | None = None, force: bool = False, resume: bool = False
) -> dict[str, Any]:
    """Write OUT with the hybrid ONNX of the recipe's masks, and return a summary for the table.

    Weights are read and written one linear at a time. dump_passes: a folder for the graph after each pass, see
    `PassDump`. resume: take up what a run that was killed has left; an ONNX file that was whole is kept. Raises
    PatchCompileError for a model or masks that can't be compiled, and when OUT or a dump is there.
    """
    progress = Progress()
    quiet_libraries()
    _check_dump(dump_passes)
    job = prepare_compiling(recipe, progress, force=force, resume=resume)
    assert recipe.mask is not None
    masks, workspace = MaskSet.load(recipe.mask), Workspace(job.out, force=force, resume=resume)
    try:
        recipe.save(workspace.root / RECIPE)
        write = partial(_write, job, masks, dump_passes, progress)
        workspace.run("onnx", _key(job, recipe.mask, dump_passes), [ONNX_FOLDER, PLAN], write)
        summary = _summary(job, masks, workspace, progress)
        write_manifest(workspace, recipe.seed, summary, masks)
        workspace.publish()
    except BaseException:
        workspace.records.clear()  # one stage: there is nothing to go on from
        workspace.discard_if_empty()
        raise
    finally:
        workspace.release()
    return summary


def _write(job: Job, masks: MaskSet, dump_passes: Path | None, progress: Progress, root: Path) -> None:
    r = job.recipe
    dump = PassDump(dump_passes) if dump_passes else None
    with progress.stage("export"):
        graph = export_graph(r.model, dtype=r.dtype, opset=r.opset, logits=r.logits, dump=dump)
    with progress.stage("pack") as update:
        weights, outline = job.given or job.checkpoint, outline_of(job.checkpoint, job.coverage, r.fuse)
        plan = settle_together(plan_linears(masks, r.lowering, job.costs), r.lowering, outline, job.costs)
        compiled = write_hybrid(
            graph, weights, masks, plan, root / ONNX, r.dtype, update, fuse=r.fuse, dump=dump
        )
    rows = [linear.row() for linear in compiled.values()]
    summary = summarise_plan(compiled, outline.compiled(compiled.values()), job.costs)
    write_json(root / PLAN, {"linears": rows, **summary})


def _key(job: Job, mask: Path, dump_passes: Path | None) -> str:
    """Identity of the ONNX file; a dump is made by running the passes, so with one it is like no other."""
    r, version = job.recipe, importlib.metadata.version("patch-compile")
    run = None if dump_passes is None else time.time_ns()
    settings = r.dtype, r.opset, r.logits, r.fuse, r.lowering, repr(job.costs)
    return key_of(version, job.fingerprint, sha256_of(mask), settings, run)


def _summary(job: Job, masks: MaskSet, workspace: Workspace, progress: Progress) -> dict[str, Any]:
    plan = json.loads((workspace.root / PLAN).read_text())
    return {
        "schema": SCHEMA,
        "path": str(job.out),
        "model": {"path": str(job.recipe.model.resolve()), "sha256": job.fingerprint},
        "method": masks.method,
        "ratio": {"asked": masks.ratio_asked, "reached": masks.ratio},
        "linears": plan.pop("linears"),
        "plan": plan,
        "skipped": [{"name": name, "reason": why} for name, why in job.coverage.skipped.items()],
        "onnx": {
            "path": str(job.out / ONNX),
            "bytes": sum(file.stat().st_size for file in (workspace.root / ONNX).parent.iterdir()),
        },
        "notes": progress.notes,
        "seconds": progress.seconds,
    }


def _check_dump(folder: Path | None) -> None:
    """An earlier dump is not mixed with this one: its passes may be others."""
    if folder is not None and folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise PatchCompileError(
            f"{folder} is not empty", "the graph after each pass goes there", "choose another --dump-passes"
        )
