"""Everything that can be found out, and refused, before any work is done."""

from __future__ import annotations

import math
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from masklearn.checkpoint import Checkpoint
from masklearn.coverage import Coverage, covered_linears_of
from masklearn.maskset import MaskSet
from patch_compile.errors import PatchCompileError
from patch_compile.export.architectures import check_exportable
from patch_compile.progress import Progress
from patch_compile.recipe import Recipe
from patch_compile.workspace import check_out

if TYPE_CHECKING:
    from patch_compile.engine.targets import Target
    from patch_compile.plugin import PluginLibrary

__all__ = ["MODEL", "Job", "prepare", "prepare_learning"]

MODEL = "model"  # the pruned checkpoint, beside masks.safetensors

_DEFAULT_TARGET = "sm86"
_STATE_BYTES = 12  # fp32 weight and the two moments of AdamW
_PACKED_SHARE = 1.1  # packed weights and engine are no larger than this share of the 16-bit weights


@dataclass(frozen=True)
class Job:
    """A checked recipe with its defaults filled in; `plugin` and `targets` are empty for the backend `onnx`."""

    recipe: Recipe
    out: Path
    checkpoint: Checkpoint
    coverage: Coverage
    given: Checkpoint | None  # the weights that belong to the masks given by `mask`
    backend: str
    targets: tuple[Target, ...]
    plugin: PluginLibrary | None


def prepare(recipe: Recipe, progress: Progress, *, force: bool, resume: bool) -> Job:
    """Check model, masks, OUT, backend, targets and plugin, and say each default that is taken.

    Raises PatchCompileError for anything that would stop the build later.
    """
    checkpoint = Checkpoint.open(recipe.model)
    check_exportable(checkpoint)
    coverage = covered_linears_of(checkpoint, recipe.include, recipe.exclude)
    ratio, given = recipe.ratio, None
    if recipe.mask is not None:
        masks = MaskSet.load(recipe.mask)
        masks.check_covers(coverage.linears)
        ratio, given = masks.ratio, _weights_of(masks, recipe.mask, checkpoint)
    _check_text(recipe)
    out = _out(recipe, ratio, progress)
    check_out(out, force=force, resume=resume)
    backend = _backend(recipe, progress)
    targets = _targets(recipe, backend, progress)
    _check_space(checkpoint, recipe, out, _compiled_bytes(checkpoint, backend))
    return Job(recipe, out, checkpoint, coverage, given, backend, targets, _plugin(backend, progress))


def prepare_learning(recipe: Recipe, progress: Progress, *, force: bool, resume: bool) -> Job:
    """The same for learning masks alone: a job without backend, targets and plugin."""
    checkpoint = Checkpoint.open(recipe.model)
    coverage = covered_linears_of(checkpoint, recipe.include, recipe.exclude)
    _check_text(recipe)
    out = _out(recipe, recipe.ratio, progress)
    check_out(out, force=force, resume=resume)
    _check_space(checkpoint, recipe, out, compiled=0)
    return Job(recipe, out, checkpoint, coverage, None, "onnx", (), None)


def _weights_of(masks: MaskSet, file: Path, checkpoint: Checkpoint) -> Checkpoint:
    """Masks that were learned together with new weights belong to the model folder beside them, and only to it."""
    digest = masks.extra.get("weights")
    if digest is None:
        return checkpoint
    folder = file.parent / MODEL
    if not folder.is_dir():
        raise PatchCompileError(
            f"{file} was learned together with new weights",
            f"they belong into {folder}, and nothing is there",
            "keep masks.safetensors beside the folder it was written with, or learn again with --repair none "
            "--method wanda, which keeps the weights",
        )
    weights = Checkpoint.open(folder)
    if weights.fingerprint() != digest:
        raise PatchCompileError(
            f"{folder} does not hold the weights that {file.name} was learned with",
            "its sha256 is another one",
            "use the two as they were written",
        )
    return weights


def _check_text(recipe: Recipe) -> None:
    from masklearn.text import open_text

    for source in (recipe.calib, recipe.eval_text):
        if source is not None:
            open_text(source)


def _out(recipe: Recipe, ratio: float | str | None, progress: Progress) -> Path:
    if recipe.out is not None:
        return recipe.out
    name = f"{ratio:.2f}" if isinstance(ratio, float) else "mixed"
    out = Path(f"{recipe.model.resolve().name}-patch-{name}")
    progress.note(f"output: ./{out} (no -o given)")
    return out


def _backend(recipe: Recipe, progress: Progress) -> str:
    from patch_compile.engine.backend import default_backend, load_backend

    if recipe.backend is None:
        name, why = default_backend()
        progress.note(f"backend: {name} ({why})")
        return str(name)
    if recipe.backend != "onnx":
        load_backend(recipe.backend)
    return recipe.backend


def _targets(recipe: Recipe, backend: str, progress: Progress) -> tuple[Target, ...]:
    from patch_compile.engine.backend import load_backend
    from patch_compile.engine.targets import local_target, parse_targets

    if recipe.target is not None:
        targets = parse_targets(recipe.target)
    else:
        local = local_target()
        targets = (local,) if local else parse_targets(_DEFAULT_TARGET)
        if backend != "onnx":
            why = "the GPU of this machine" if local else "no GPU here"
            progress.note(f"target: {targets[0].name} ({why})")
    if backend == "onnx":
        return ()
    load_backend(backend).check_targets(targets)
    return targets


def _plugin(backend: str, progress: Progress) -> PluginLibrary | None:
    if backend == "onnx":
        return None
    from patch_compile.plugin import build_plugin

    with progress.stage("plugin"):
        return build_plugin(backend)


def _check_space(checkpoint: Checkpoint, recipe: Recipe, out: Path, compiled: int) -> None:
    """Everything has to fit, with nothing removed; compiled: bytes of ONNX files and engine."""
    needed = compiled + (_learning_bytes(checkpoint, recipe) if recipe.mask is None else 0)
    needed += _stored(checkpoint)  # the pruned checkpoint
    home = next(parent for parent in (Path.cwd() / out).parents if parent.exists())
    free = shutil.disk_usage(home).free
    if free < needed:
        raise PatchCompileError(
            f"no space for {out}",
            f"it needs up to {needed / 1e9:.1f} GB, {home} has {free / 1e9:.1f} GB",
            "make room, or write to another disk with -o",
        )


def _learning_bytes(checkpoint: Checkpoint, recipe: Recipe) -> int:
    """Solved and repaired weights, and two checkpoints of training: the newest and the one being written."""
    from masklearn.device import available_memory, usable_device

    stored = _stored(checkpoint) * (1 + recipe.repairs)
    if not recipe.trains:
        return stored
    # A checkpoint comes from memory: where its state does not fit there, nothing is trained.
    state = min(_STATE_BYTES * _weights(checkpoint), available_memory(usable_device(recipe.device)))
    return stored + 2 * state


def _compiled_bytes(checkpoint: Checkpoint, backend: str) -> int:
    """The dense ONNX of the proof, the hybrid one and the engine."""
    return int(2 * _weights(checkpoint) * (1 + _PACKED_SHARE * (1 if backend == "onnx" else 2)))


def _stored(checkpoint: Checkpoint) -> int:
    return sum(file.stat().st_size for file in checkpoint.files())


def _weights(checkpoint: Checkpoint) -> int:
    return sum(math.prod(checkpoint.shape(name)) for name in checkpoint.names())
