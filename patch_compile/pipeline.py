"""The stages of a build, in order: masks, pruned checkpoint, ONNX, engine, proof."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
from rich.console import Console

from masklearn.checkpoint import Checkpoint
from masklearn.maskset import MaskSet
from masklearn.processes import is_main_process, leave, process_count
from masklearn.recipe import LearnRecipe, Method
from patch_compile.compile import export_graph, write_hybrid
from patch_compile.errors import PatchCompileError
from patch_compile.plan.lowering import LinearPlan, plan_linears
from patch_compile.prepare import MODEL, Job, prepare, prepare_learning
from patch_compile.progress import Progress
from patch_compile.recipe import Recipe
from patch_compile.workspace import MANIFEST, Workspace, key_of, sha256_of, write_json

if TYPE_CHECKING:
    from masklearn.baselines import Baseline
    from masklearn.learn import Learned

__all__ = ["build", "build_plugin", "learn"]

_SCHEMA = 1
_MASKS, _ONNX, _ENGINE = "masks.safetensors", "onnx/model.onnx", "engine/model.engine"
_PLAN, _REPORT, _RECIPE = "plan.json", "report.json", "recipe.yaml"
_PACKAGES = (
    "torch",
    "transformers",
    "onnx",
    "onnx-ir",
    "onnxruntime",
    "polygraphy",
    "tensorrt-rtx-cu13",
    "tensorrt",
)


def build(recipe: Recipe, *, force: bool, resume: bool) -> dict[str, Any]:
    """Run what is not there yet and return the report. Interrupted, finished stages stay for `resume`."""
    if process_count() > 1:
        raise PatchCompileError(
            "a build runs in one process",
            "only learning is shared out",
            "launch `patch-compile learn`, then `patch-compile build --mask OUT/masks.safetensors`",
        )
    progress = Progress()
    _quiet_libraries(recipe)
    job = prepare(recipe, progress, force=force, resume=resume)
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
    names = parse_baselines(baselines) if baselines else ()
    _quiet_libraries(recipe)
    job = prepare_learning(recipe, progress, force=force, resume=resume)
    with _kept_when_interrupted(Workspace(job.out, force=force, resume=resume), progress) as workspace:
        recipe.save(workspace.root / _RECIPE)
        workspace.run("masks", _masks_key(job), [_MASKS, MODEL], partial(_masks, job, progress))
        masks = MaskSet.load(workspace.root / _MASKS)
        summary = {
            "path": str(job.out),
            **_about_masks(job, masks, _rows(plan_linears(masks))),
            **({"baselines": _compared(job, workspace.root, masks, names, progress)} if names else {}),
            "notes": progress.notes,
            "seconds": progress.seconds,
        }
        write_json(workspace.root / MANIFEST, _manifest(job, workspace, summary, masks))
        workspace.publish()
    return summary


def build_plugin(backend: str | None, *, force: bool) -> dict[str, Any]:
    """Say what building the plugin needs and what of it is here, build it, and return where it is."""
    from patch_compile.engine.backend import BackendName, default_backend
    from patch_compile.plugin import build_plugin as compile_plugin
    from patch_compile.toolchain import describe_toolchain

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


def _stages(job: Job, workspace: Workspace, progress: Progress) -> dict[str, Any]:
    recipe, root = job.recipe, workspace.root
    recipe.save(root / _RECIPE)
    key = _keys(job)
    workspace.run("masks", key["masks"], [_MASKS, MODEL], partial(_masks, job, progress))
    masks = MaskSet.load(root / _MASKS)
    workspace.run("onnx", key["onnx"], ["onnx", _PLAN], partial(_write_onnx, job, masks, progress))
    if job.backend != "onnx":
        workspace.run("engine", key["engine"], ["engine"], partial(_write_engine, job, progress))
    workspace.run("proof", key["proof"], [_REPORT], partial(_write_report, job, masks, progress))
    if workspace.reused:
        progress.note(f"unchanged, not run again: {', '.join(workspace.reused)}")
    report: dict[str, Any] = json.loads((root / _REPORT).read_text())
    write_json(root / MANIFEST, _manifest(job, workspace, report, masks))
    workspace.publish()
    return report


def _keys(job: Job) -> dict[str, str]:
    """Each stage's key holds that of the stage before it."""
    r, masks = job.recipe, _masks_key(job)
    onnx = key_of(masks, r.dtype, r.opset, r.fuse)
    shapes = [r.min_shapes, r.opt_shapes, r.max_shapes, r.optimization_level]
    plugin = job.plugin.fingerprint if job.plugin else None
    engine = key_of(onnx, job.backend, [target.name for target in job.targets], shapes, plugin)
    proof = key_of(engine, _text_hash(r.eval_text), r.eval_windows, r.eval_length, r.prompt, r.seed)
    return {"masks": masks, "onnx": onnx, "engine": engine, "proof": proof}


def _masks_key(job: Job) -> str:
    r, version = job.recipe, importlib.metadata.version("patch-compile")
    given = sha256_of(r.mask) if r.mask else None
    learned = r.model_dump(mode="json", include=set(LearnRecipe.model_fields) - {"calib"})
    files = [_text_hash(r.calib), sha256_of(Path(r.prior)) if Path(r.prior).is_file() else None]
    return key_of(version, job.checkpoint.fingerprint(), given or [learned, *files])


def _text_hash(source: str | None) -> str | None:
    from masklearn.text import open_text

    return None if source is None else open_text(source).fingerprint()


def _masks(job: Job, progress: Progress, root: Path) -> None:
    """Write the masks and the pruned checkpoint; masks that come with new weights hold that checkpoint's sha256."""
    from masklearn.prune import write_pruned_checkpoint

    if job.recipe.mask is not None:
        masks, weights = MaskSet.load(job.recipe.mask), job.given or job.checkpoint
    else:
        learned = _learn(job, progress, root)
        masks, weights = learned.masks, learned.checkpoint
    with progress.stage("pruned checkpoint") as update:
        write_pruned_checkpoint(weights, masks, root / MODEL, update)
    if "weights" in masks.extra or (weights.new is not None and weights.new.names()):
        masks.extra["weights"] = Checkpoint.open(root / MODEL).fingerprint()
    masks.save(root / _MASKS)


def _learn(job: Job, progress: Progress, root: Path) -> Learned:
    from masklearn.learn import learn as learn_masks

    scratch = root / "scratch" / _masks_key(job)[:16]
    if job.recipe.calib is None and (job.recipe.method is not Method.MAGNITUDE or job.recipe.repairs):
        progress.note("calibration text: the model writes its own (no --calib given)")
    launch = _launch(root / "scratch")
    shutil.rmtree(launch, ignore_errors=True)  # of a run that was interrupted
    launch.mkdir()
    with progress.stage("masks") as update:
        learned = learn_masks(job.recipe.model, job.recipe.learning(), scratch, update, progress.note)
    leave(launch)
    return learned


def _compared(
    job: Job, root: Path, masks: MaskSet, names: tuple[Baseline, ...], progress: Progress
) -> dict[str, Any]:
    from masklearn.baselines import compare
    from masklearn.calibrate import load_tokenizer
    from patch_compile.verify.held_out import evaluation_windows

    r, seconds = job.recipe, progress.seconds.get("masks", 0.0)
    windows, text = evaluation_windows(r, load_tokenizer(r.model), progress)
    scratch = root / "scratch" / "baselines"
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


def _about_masks(job: Job, masks: MaskSet, linears: list[dict[str, Any]]) -> dict[str, Any]:
    """What a report says about masks, wherever they come from; linears: a row of the plan for each."""
    from masklearn.summary import summarise_tiles

    return {
        "schema": _SCHEMA,
        "model": {"path": str(job.recipe.model.resolve()), "sha256": job.checkpoint.fingerprint()},
        "method": masks.method,
        "ratio": {"asked": masks.ratio_asked, "reached": masks.ratio},
        "linears": linears,
        "where_sparse": summarise_tiles(masks.tile_maps()),
        "skipped": [{"name": name, "reason": why} for name, why in job.coverage.skipped.items()],
        "learned": masks.extra,
    }


def _write_onnx(job: Job, masks: MaskSet, progress: Progress, root: Path) -> None:
    r = job.recipe
    with progress.stage("export"):
        graph = export_graph(r.model, dtype=r.dtype, opset=r.opset)
    with progress.stage("pack") as update:
        (root / _ONNX).parent.mkdir(parents=True, exist_ok=True)
        pruned, plan = Checkpoint.open(root / MODEL), plan_linears(masks)
        compiled = write_hybrid(graph, pruned, masks, plan, root / _ONNX, r.dtype, update, fuse=r.fuse)
    write_json(root / _PLAN, {"linears": _rows(compiled)})


def _write_engine(job: Job, progress: Progress, root: Path) -> None:
    from patch_compile.engine.build import build_engine
    from patch_compile.engine.expectation import expectation_from_onnx
    from patch_compile.engine.profiles import profiles_from_onnx

    r = job.recipe
    profiles = profiles_from_onnx(root / _ONNX, r.min_shapes, r.opt_shapes, r.max_shapes)
    with progress.stage("engine") as update:
        (root / _ENGINE).parent.mkdir(parents=True, exist_ok=True)
        report = build_engine(
            root / _ONNX,
            root / _ENGINE,
            backend=job.backend,
            targets=job.targets,
            profiles=profiles,
            plugin=job.plugin.path if job.plugin else None,
            expected=expectation_from_onnx(root / _ONNX),
            optimization_level=r.optimization_level,
            progress=update,
        )
    write_json(root / "engine" / "engine.json", report.as_dict())


def _write_report(job: Job, masks: MaskSet, progress: Progress, root: Path) -> None:
    from patch_compile.verify.proof import prove

    proof = prove(job, root / _ONNX, root / MODEL, root / "scratch" / "proof", progress)
    engine = root / "engine" / "engine.json"
    report = {
        "path": str(job.out / _REPORT),
        **_about_masks(job, masks, json.loads((root / _PLAN).read_text())["linears"]),
        "onnx": {"path": str(job.out / _ONNX), "bytes": _bytes_of(root / "onnx")},
        "engine": _engine_entry(job, json.loads(engine.read_text())) if engine.is_file() else None,
        **proof,
        "notes": progress.notes,
        "seconds": progress.seconds,
    }
    write_json(root / _REPORT, report)


def _engine_entry(job: Job, built: dict[str, Any]) -> dict[str, Any]:
    return {**built, "path": str(job.out / _ENGINE)}


def _bytes_of(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.iterdir())


def _manifest(job: Job, workspace: Workspace, report: dict[str, Any], masks: MaskSet) -> dict[str, Any]:
    files = {name: digest for record in workspace.records.values() for name, digest in record.files.items()}
    files[_RECIPE] = sha256_of(workspace.root / _RECIPE)
    return {
        "schema": _SCHEMA,
        "model": report["model"],
        "ratio": report["ratio"],
        "method": report["method"],
        "seed": job.recipe.seed,
        "text": {"calib": masks.extra.get("text"), **report.get("text", {})},
        "versions": _versions(),
        "files": dict(sorted(files.items())),
        "stages": workspace.stages(),
    }


def _versions() -> dict[str, str]:
    versions = {
        "patch-compile": importlib.metadata.version("patch-compile"),
        "python": platform.python_version(),
    }
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def _quiet_libraries(recipe: Recipe) -> None:
    """Their bars and warnings would be taken for ours; nothing may reach a hub unless the user names a dataset."""
    from masklearn.text import open_text

    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    if not any(text is not None and open_text(text).on_hub for text in (recipe.calib, recipe.eval_text)):
        os.environ["HF_HUB_OFFLINE"] = "1"
