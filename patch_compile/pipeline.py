"""The stages of a build, in order: masks, pruned checkpoint, ONNX, engine, proof."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
from functools import partial
from pathlib import Path
from typing import Any

from masklearn.checkpoint import Checkpoint
from masklearn.coverage import covered_linears_of
from masklearn.maskset import MaskSet
from patch_compile.compile import export_graph, write_hybrid
from patch_compile.errors import PatchCompileError
from patch_compile.plan.lowering import plan_linears
from patch_compile.prepare import Job, prepare
from patch_compile.progress import Progress
from patch_compile.recipe import Recipe
from patch_compile.workspace import MANIFEST, Workspace, key_of, sha256_of, write_json

__all__ = ["build", "build_plugin", "learn"]

_SCHEMA = 1
_MASKS, _MODEL, _ONNX, _ENGINE = "masks.safetensors", "model", "onnx/model.onnx", "engine/model.engine"
_REPORT, _RECIPE = "report.json", "recipe.yaml"
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
    progress = Progress()
    _quiet_libraries()
    job = prepare(recipe, progress, force=force, resume=resume)
    workspace = Workspace(job.out, force=force, resume=resume)
    try:
        report = _stages(job, workspace, progress)
    except BaseException as error:
        if not workspace.discard_if_empty() and isinstance(error, KeyboardInterrupt | PatchCompileError):
            progress.note(f"finished stages are kept in {workspace.root}; --resume goes on from there")
        raise
    return report


def learn(recipe: Recipe, out: Path, *, force: bool) -> dict[str, Any]:
    """Learn masks alone, write them to the file `out`, and return a summary for the table."""
    if out.exists() and not force:
        raise PatchCompileError(f"{out} exists", "masks are never overwritten", "use --force, or another -o")
    if not out.resolve().parent.is_dir():
        raise PatchCompileError(f"{out.parent} is not a folder", "", "make it first, or choose another -o")
    _quiet_libraries()
    coverage = covered_linears_of(Checkpoint.open(recipe.model), recipe.include, recipe.exclude)
    masks = _learn(recipe, Progress())
    masks.save(out)
    return {
        "linears": [plan.row() for plan in plan_linears(masks).values()],
        "skipped": [{"name": name, "reason": why} for name, why in coverage.skipped.items()],
        "ratio": {"asked": masks.ratio_asked, "reached": masks.ratio},
    }


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


def _stages(job: Job, workspace: Workspace, progress: Progress) -> dict[str, Any]:
    recipe, root = job.recipe, workspace.root
    recipe.save(root / _RECIPE)
    key = _keys(job)
    workspace.run("masks", key["masks"], [_MASKS], lambda out: _masks(job, progress).save(out / _MASKS))
    masks = MaskSet.load(root / _MASKS)
    workspace.run("model", key["model"], [_MODEL], partial(_write_model, job, masks, progress))
    workspace.run("onnx", key["onnx"], ["onnx"], partial(_write_onnx, job, masks, progress))
    if job.backend != "onnx":
        workspace.run("engine", key["engine"], ["engine"], partial(_write_engine, job, progress))
    workspace.run("proof", key["proof"], [_REPORT], partial(_write_report, job, masks, progress))
    if workspace.reused:
        progress.note(f"unchanged, not run again: {', '.join(workspace.reused)}")
    report: dict[str, Any] = json.loads((root / _REPORT).read_text())
    write_json(root / MANIFEST, _manifest(job, workspace, report))
    workspace.publish()
    return report


def _keys(job: Job) -> dict[str, str]:
    """Each stage's key holds that of the stage before it."""
    r, version = job.recipe, importlib.metadata.version("patch-compile")
    text = {name: _text_hash(path) for name, path in (("calib", r.calib), ("eval", r.eval_text))}
    learned = [r.method, r.ratio, r.tile, r.include, r.exclude, text["calib"], r.windows, r.length, r.seed]
    given = sha256_of(r.mask) if r.mask else None
    masks = key_of(version, job.checkpoint.fingerprint(), given or learned)
    onnx = key_of(masks, r.dtype, r.opset)
    shapes = [r.min_shapes, r.opt_shapes, r.max_shapes, r.optimization_level]
    plugin = job.plugin.fingerprint if job.plugin else None
    engine = key_of(onnx, job.backend, [target.name for target in job.targets], shapes, plugin)
    proof = key_of(engine, text["eval"], r.eval_windows, r.eval_length, r.prompt, r.seed)
    return {"masks": masks, "model": key_of(masks, "model"), "onnx": onnx, "engine": engine, "proof": proof}


def _text_hash(path: Path | None) -> str | None:
    if path is None:
        return None
    files = sorted(f for f in path.rglob("*") if f.is_file()) if path.is_dir() else [path]
    return key_of([sha256_of(file) for file in files])


def _masks(job: Job, progress: Progress) -> MaskSet:
    if job.recipe.mask is not None:
        return MaskSet.load(job.recipe.mask)
    return _learn(job.recipe, progress)


def _learn(recipe: Recipe, progress: Progress) -> MaskSet:
    from masklearn.learn import LearnRecipe
    from masklearn.learn import learn as learn_masks

    settings = recipe.model_dump(include=set(LearnRecipe.model_fields))
    if recipe.calib is None and recipe.method != "magnitude":
        progress.note("calibration text: the model writes its own (no --calib given)")
    with progress.stage("masks") as update:
        return learn_masks(recipe.model, LearnRecipe.checked(**settings), progress=update)


def _write_model(job: Job, masks: MaskSet, progress: Progress, root: Path) -> None:
    from patch_compile.prune import write_pruned_checkpoint

    with progress.stage("pruned checkpoint") as update:
        write_pruned_checkpoint(job.checkpoint, masks, root / _MODEL, update)


def _write_onnx(job: Job, masks: MaskSet, progress: Progress, root: Path) -> None:
    r = job.recipe
    with progress.stage("export"):
        graph = export_graph(r.model, dtype=r.dtype, opset=r.opset)
    with progress.stage("pack") as update:
        (root / _ONNX).parent.mkdir(parents=True, exist_ok=True)
        write_hybrid(
            graph, Checkpoint.open(root / _MODEL), masks, plan_linears(masks), root / _ONNX, r.dtype, update
        )


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

    proof = prove(job, root / _ONNX, root / _MODEL, root / "scratch", progress)
    engine = root / "engine" / "engine.json"
    report = {
        "schema": _SCHEMA,
        "path": str(job.out / _REPORT),
        "model": {"path": str(job.recipe.model.resolve()), "sha256": job.checkpoint.fingerprint()},
        "method": masks.method,
        "ratio": {"asked": masks.ratio_asked, "reached": masks.ratio},
        "linears": [plan.row() for plan in plan_linears(masks).values()],
        "skipped": [{"name": name, "reason": why} for name, why in job.coverage.skipped.items()],
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


def _manifest(job: Job, workspace: Workspace, report: dict[str, Any]) -> dict[str, Any]:
    files = {name: digest for record in workspace.records.values() for name, digest in record.files.items()}
    files[_RECIPE] = sha256_of(workspace.root / _RECIPE)
    return {
        "schema": _SCHEMA,
        "model": report["model"],
        "ratio": report["ratio"],
        "method": report["method"],
        "seed": job.recipe.seed,
        "text": report["text"],
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


def _quiet_libraries() -> None:
    """Their bars and warnings would be taken for ours; nothing may reach a hub either."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ["HF_HUB_OFFLINE"] = "1"
