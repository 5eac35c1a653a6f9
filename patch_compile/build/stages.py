"""The stages of a build, in order: masks, pruned checkpoint, ONNX, engine, proof."""

from __future__ import annotations

import importlib.metadata
import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
from rich.console import Console

from masklearn.checkpoint.checkpoint import Checkpoint
from masklearn.masks.maskset import MaskSet
from masklearn.processes import is_main_process, leave, process_count
from masklearn.recipe import LearnRecipe
from patch_compile.errors import PatchCompileError
from patch_compile.out.layout import (
    ENGINE,
    ENGINE_FOLDER,
    ENGINE_REPORT,
    MANIFEST,
    MASKS,
    MODEL,
    ONNX,
    ONNX_FOLDER,
    PLAN,
    PRUNED_ONNX,
    RECIPE,
    REPORT,
    SCRATCH,
)
from patch_compile.out.manifest import SCHEMA, write_manifest
from patch_compile.out.workspace import Workspace, key_of, sha256_of, write_json
from patch_compile.passes.write import export_graph, write_hybrid
from patch_compile.plan.lowering import LinearPlan, plan_linears
from patch_compile.plan.outline import outline_of
from patch_compile.plan.settle_together import settle_together
from patch_compile.plan.summary import summarise_plan
from patch_compile.progress import Progress, quiet_libraries
from patch_compile.recipe import Recipe
from patch_compile.sources.checkpoint.source import Job, prepare, prepare_learning

if TYPE_CHECKING:
    from masklearn.baselines import Baseline
    from masklearn.learn import Learned
    from patch_compile.plan.tiles_for_speed import TilesForSpeed
    from patch_compile.sources.onnx_model.source import OnnxJob

__all__ = ["build", "build_plugin", "learn"]


def build(recipe: Recipe, *, force: bool, resume: bool) -> dict[str, Any]:
    """Run what is not there yet and return the report. Interrupted, finished stages stay for `resume`."""
    if process_count() > 1:
        raise PatchCompileError(
            "a build runs in one process",
            "only learning is shared out",
            f"launch `patch-compile learn`, then `patch-compile build --mask OUT/{MASKS}`",
        )
    progress = Progress()
    _quiet_libraries(recipe)
    job = _prepared(recipe, progress, force=force, resume=resume)
    with _kept_when_interrupted(Workspace(job.out, force=force, resume=resume), progress) as workspace:
        return _stages(job, workspace, progress)


def learn(
    recipe: Recipe, baselines: str | None = None, *, force: bool, resume: bool
) -> dict[str, Any] | None:
    """Learn masks alone: write them and the pruned model to the folder OUT, and return a summary for the table.

    Of several processes (`accelerate launch`, torchrun) the first writes and returns; the others take part, and
    return None.

    baselines: see `masklearn.baselines.parse_baselines`; None compares with none.
    """
    from masklearn.baselines import parse_baselines

    if not is_main_process():
        _take_part(recipe)
        return None
    progress = Progress()
    names = () if baselines is None else parse_baselines(baselines)
    _quiet_libraries(recipe)
    job = prepare_learning(recipe, progress, force=force, resume=resume)
    with _kept_when_interrupted(Workspace(job.out, force=force, resume=resume), progress) as workspace:
        recipe.save(workspace.root / RECIPE)
        workspace.run("masks", _masks_key(job), [MASKS, MODEL], partial(_masks, job, progress))
        masks = MaskSet.load(workspace.root / MASKS)
        summary = {
            "path": str(job.out),
            **_about_masks(job, masks, _rows(plan_linears(masks))),
            **({"baselines": _compared(job, workspace.root, masks, names, progress)} if names else {}),
            "notes": progress.notes,
            "seconds": progress.seconds,
        }
        write_manifest(workspace, recipe.seed, summary, masks)
        workspace.publish()
    return summary


def build_plugin(backend: str | None, *, force: bool) -> dict[str, Any]:
    """Say what building the plugin needs and what of it is here, build it, and return where it is."""
    from patch_compile.engine.backend import BackendName, default_backend
    from patch_compile.plugin.build import build_plugin as compile_plugin
    from patch_compile.plugin.toolchain import describe_toolchain

    progress = Progress()
    if backend is None:
        name, why = default_backend()
        backend = str(BackendName.TENSORRT_RTX if name is BackendName.ONNX else name)
        progress.note(f"backend: {backend} ({why})")
    toolchain = describe_toolchain(backend)
    for item in toolchain:
        progress.note(f"{item.what}: {item.where if item.found else f'missing. {item.where} {item.fix}'}")
    with progress.stage("plugin"):
        library = compile_plugin(backend, force=force)
    found = [{"what": item.what, "found": item.where} for item in toolchain]
    return {"backend": backend, "path": str(library.path), "archs": list(library.archs), "toolchain": found}


@contextmanager
def _kept_when_interrupted(workspace: Workspace, progress: Progress) -> Iterator[Workspace]:
    try:
        yield workspace
    except BaseException as error:
        if not workspace.discard_if_empty() and isinstance(error, KeyboardInterrupt | PatchCompileError):
            progress.note(f"what is finished is kept in {workspace.root}; --resume goes on from there")
        raise
    finally:
        workspace.release()


def _prepared(recipe: Recipe, progress: Progress, *, force: bool, resume: bool) -> Job | OnnxJob:
    if not recipe.is_onnx:
        return prepare(recipe, progress, force=force, resume=resume)
    from patch_compile.sources.onnx_model.source import prepare_onnx

    return prepare_onnx(recipe, progress, force=force, resume=resume)


def _stages(job: Job | OnnxJob, workspace: Workspace, progress: Progress) -> dict[str, Any]:
    from patch_compile.report.page import renew_page

    recipe, root = job.recipe, workspace.root
    recipe.save(root / RECIPE)
    key = _keys(job)
    workspace.run("masks", key["masks"], [MASKS, MODEL], partial(_masks, job, progress))
    masks = MaskSet.load(root / MASKS)
    workspace.run("onnx", key["onnx"], [ONNX_FOLDER, PLAN], partial(_write_onnx, job, masks, progress))
    if job.backend != "onnx":
        workspace.run("engine", key["engine"], [ENGINE_FOLDER], partial(_write_engine, job, progress))
    workspace.run("proof", key["proof"], [REPORT], partial(_write_report, job, masks, progress))
    if workspace.reused:
        progress.note(f"unchanged, not run again: {', '.join(workspace.reused)}")
    report: dict[str, Any] = json.loads((root / REPORT).read_text())
    write_manifest(workspace, recipe.seed, report, masks)
    renew_page(workspace.publish())
    return report


def _keys(job: Job | OnnxJob) -> dict[str, str]:
    """Each stage's key holds that of the stage before it."""
    r, masks = job.recipe, _masks_key(job)
    onnx = key_of(masks, r.dtype, r.opset, r.logits, r.fuse, r.lowering, repr(job.costs))
    shapes = [r.min_shapes, r.opt_shapes, r.max_shapes, repr(r.engine_options())]
    plugin = job.plugin.fingerprint if job.plugin else None
    engine = key_of(onnx, job.backend, [target.name for target in job.targets], shapes, plugin)
    proof = key_of(
        engine, _calib_hash(r), _text_hash(r.eval_text), r.eval_windows, r.eval_length, r.prompt, r.seed
    )
    return {"masks": masks, "onnx": onnx, "engine": engine, "proof": proof}


def _masks_key(job: Job | OnnxJob) -> str:
    r, version = job.recipe, importlib.metadata.version("patch-compile")
    given = sha256_of(r.mask) if r.mask else None
    learned = r.model_dump(mode="json", include=set(LearnRecipe.model_fields) - {"calib"})
    files = [_calib_hash(r), sha256_of(Path(r.prior)) if Path(r.prior).is_file() else None]
    rounded = r.dtype if r.is_onnx else None  # its pruned model holds the numbers that are packed
    # What its tiles are chosen by.
    speed = [str(r.goal), r.lowering, r.fuse, repr(job.costs)] if r.goal else None
    return key_of(version, job.fingerprint, given or [learned, *files], rounded, speed)


def _calib_hash(recipe: Recipe) -> str | None:
    if recipe.is_onnx and recipe.calib:
        return sha256_of(Path(recipe.calib))
    return _text_hash(recipe.calib)


def _text_hash(source: str | None) -> str | None:
    from masklearn.text import open_text

    return None if source is None else open_text(source).fingerprint()


def _masks(job: Job | OnnxJob, progress: Progress, root: Path) -> None:
    """Write the masks and the pruned model; masks that come with new weights hold that model's sha256."""
    from masklearn.checkpoint.prune import write_pruned_checkpoint

    if not isinstance(job, Job):
        from patch_compile.sources.onnx_model.pruning import write_onnx_masks

        write_onnx_masks(job, root / MASKS, progress, root)
        return
    if job.recipe.mask is not None:
        masks, weights = MaskSet.load(job.recipe.mask), job.given or job.checkpoint
    else:
        learned = _learn(job, progress, root)
        masks, weights = learned.masks, learned.checkpoint
    with progress.stage("pruned checkpoint") as update:
        write_pruned_checkpoint(weights, masks, root / MODEL, update)
    if masks.record.weights is not None or (weights.new is not None and weights.new.names()):
        masks.record.weights = Checkpoint.open(root / MODEL).fingerprint()
    masks.save(root / MASKS)


def _learn(job: Job, progress: Progress, root: Path) -> Learned:
    from masklearn.learn import learn as learn_masks

    scratch = root / SCRATCH / _masks_key(job)[:16]
    reads_text = bool(job.recipe.traits.needs) or job.recipe.repairs or job.recipe.permute
    if job.recipe.calib is None and reads_text:
        progress.note("calibration text: the model writes its own (no --calib given)")
    launch = _launch(root / SCRATCH)
    shutil.rmtree(launch, ignore_errors=True)  # of a run that was interrupted
    launch.mkdir()
    with progress.stage("masks") as update:
        choose = _tiles_for_speed(job)
        learned = learn_masks(job.recipe.model, job.recipe.learning(), scratch, update, progress.note, choose)
    if choose is not None:
        learned.masks.record.speed = choose.record
    if permuted := learned.masks.record.permuted:
        progress.note(
            f"permuted: the hidden channels of {permuted.parts} feed-forward parts; their dense outputs differ by"
            f" {permuted.dense_error:g} of their norm at most"
        )
    leave(launch)
    return learned


def _tiles_for_speed(job: Job) -> TilesForSpeed | None:
    """What chooses the tiles for the speed that is asked for; None where the ratio does."""
    from patch_compile.plan.tiles_for_speed import TilesForSpeed

    r = job.recipe
    if r.goal is None or job.costs is None:  # a goal without costs was refused
        return None
    outline = outline_of(job.checkpoint, job.coverage, r.fuse)
    return TilesForSpeed(r.goal, job.costs, outline, job.coverage.linears, r.tile, r.lowering)


def _compared(
    job: Job, root: Path, masks: MaskSet, names: tuple[Baseline, ...], progress: Progress
) -> dict[str, Any]:
    from masklearn.baselines import compare
    from masklearn.checkpoint.pretrained import load_tokenizer
    from patch_compile.sources.checkpoint.held_out import evaluation_windows

    r, seconds = job.recipe, progress.seconds.get("masks", 0.0)
    windows, text = evaluation_windows(r, load_tokenizer(r.model), progress)
    scratch = root / SCRATCH / "baselines"
    with progress.stage("baselines") as update:
        found = compare(
            r.model,
            r.learning(),
            root / MODEL,
            masks,
            seconds,
            names,
            windows,
            scratch,
            update,
            progress.note,
        )
    return {**found, "text": text}


def _take_part(recipe: Recipe) -> None:
    """What all processes but the first do: learn beside it, in its scratch folder, and write nothing else."""
    from masklearn.learn import learn as learn_masks

    _quiet_libraries(recipe)
    job = prepare_learning(recipe, Progress(Console(quiet=True)), force=True, resume=True)
    scratch = Workspace.scratch_of(job.out)
    while not _launch(scratch).exists():  # the first process may have to clear an earlier run away
        if _published_since_start(job.out):  # it found the masks unchanged, and there is nothing to learn
            return
        time.sleep(0.2)
    if recipe.trains:  # nothing else is shared out
        learn_masks(recipe.model, recipe.learning(), scratch / _masks_key(job)[:16])
    leave(_launch(scratch))


def _published_since_start(out: Path) -> bool:
    manifest = out / MANIFEST
    return manifest.is_file() and manifest.stat().st_mtime > psutil.Process().create_time()


def _launch(scratch: Path) -> Path:
    """A folder that is there when the first process of this launch learns, in this scratch folder."""
    launch = (os.environ.get(name, "") for name in ("TORCHELASTIC_RUN_ID", "MASTER_PORT"))
    return scratch / f"launch-{key_of(*launch)[:16]}"


def _rows(plan: Mapping[str, LinearPlan]) -> list[dict[str, Any]]:
    return [linear.row() for linear in plan.values()]


def _about_masks(job: Job | OnnxJob, masks: MaskSet, linears: list[dict[str, Any]]) -> dict[str, Any]:
    """What a report says about masks, wherever they come from; linears: a row of the plan for each."""
    from masklearn.masks.summary import summarise_tiles

    return {
        "schema": SCHEMA,
        "model": {"path": str(job.recipe.model.resolve()), "sha256": job.fingerprint},
        "method": masks.method,
        "ratio": {"asked": masks.ratio_asked, "reached": masks.ratio},
        "linears": linears,
        "where_sparse": summarise_tiles(masks.tile_maps()),
        "skipped": [{"name": name, "reason": why} for name, why in job.coverage.skipped.items()],
        "learned": masks.record.as_metadata(),
    }


def _write_onnx(job: Job | OnnxJob, masks: MaskSet, progress: Progress, root: Path) -> None:
    if not isinstance(job, Job):
        from patch_compile.sources.onnx_model.pruning import write_planned

        write_json(root / PLAN, write_planned(job, masks, root / ONNX, progress, root))
        return
    r = job.recipe
    with progress.stage("export"):
        graph = export_graph(r.model, dtype=r.dtype, opset=r.opset, logits=r.logits)
    with progress.stage("pack") as update:
        (root / ONNX).parent.mkdir(parents=True, exist_ok=True)
        pruned, outline = Checkpoint.open(root / MODEL), outline_of(job.checkpoint, job.coverage, r.fuse)
        plan = settle_together(plan_linears(masks, r.lowering, job.costs), r.lowering, outline, job.costs)
        compiled = write_hybrid(graph, pruned, masks, plan, root / ONNX, r.dtype, update, fuse=r.fuse)
    summary = summarise_plan(compiled, outline.compiled(compiled.values()), job.costs)
    write_json(root / PLAN, {"linears": _rows(compiled), **summary})


def _write_engine(job: Job | OnnxJob, progress: Progress, root: Path) -> None:
    from patch_compile.engine.build import build_engine
    from patch_compile.engine.expectation import expectation_from_onnx
    from patch_compile.engine.profiles import profiles_from_onnx

    r = job.recipe
    profiles = profiles_from_onnx(root / ONNX, r.min_shapes, r.opt_shapes, r.max_shapes)
    expected = expectation_from_onnx(root / ONNX)
    with progress.stage("engine") as update:
        (root / ENGINE).parent.mkdir(parents=True, exist_ok=True)
        report = build_engine(
            root / ONNX,
            root / ENGINE,
            backend=job.backend,
            targets=job.targets,
            profiles=profiles,
            plugin=job.plugin.path if job.plugin and expected.patch_linears else None,
            expected=expected,
            options=r.engine_options(),
            progress=update,
        )
    write_json(root / ENGINE_REPORT, report.as_dict())


def _proof(job: Job | OnnxJob, plan: dict[str, Any], progress: Progress, root: Path) -> dict[str, Any]:
    scratch = root / SCRATCH / "proof"
    if not isinstance(job, Job):
        from patch_compile.sources.onnx_model.prove import prove_onnx

        packed = [row["name"] for row in plan["linears"] if row["lowering"] != "dense"]
        return prove_onnx(job, root / ONNX, root / PRUNED_ONNX, packed, scratch, progress)
    from patch_compile.verify.proof import prove

    return prove(job, root / ONNX, root / MODEL, scratch, progress)


def _write_report(job: Job | OnnxJob, masks: MaskSet, progress: Progress, root: Path) -> None:
    engine = root / ENGINE_REPORT
    plan = json.loads((root / PLAN).read_text())
    proof = _proof(job, plan, progress, root)
    report = {
        "path": str(job.out / REPORT),
        **_about_masks(job, masks, plan.pop("linears")),
        "plan": plan,
        "onnx": {"path": str(job.out / ONNX), "bytes": _bytes_of(root / ONNX_FOLDER)},
        "engine": _engine_entry(job, json.loads(engine.read_text())) if engine.is_file() else None,
        **proof,
        "notes": progress.notes,
        "seconds": progress.seconds,
    }
    write_json(root / REPORT, report)


def _engine_entry(job: Job | OnnxJob, built: dict[str, Any]) -> dict[str, Any]:
    return {**built, "path": str(job.out / ENGINE)}


def _bytes_of(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.iterdir())


def _quiet_libraries(recipe: Recipe) -> None:
    quiet_libraries(() if recipe.is_onnx else (recipe.calib, recipe.eval_text))
