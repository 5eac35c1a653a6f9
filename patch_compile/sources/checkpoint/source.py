"""Everything that can be found out, and refused, before any work is done."""

from __future__ import annotations

import math
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from masklearn.checkpoint.architectures import architecture_of
from masklearn.checkpoint.checkpoint import Checkpoint
from masklearn.checkpoint.coverage import Coverage, covered_linears_of
from masklearn.masks.maskset import MaskSet
from patch_compile.errors import PatchCompileError
from patch_compile.export.architectures import check_exportable
from patch_compile.out.layout import MASKS, MODEL
from patch_compile.out.workspace import check_out, place_of
from patch_compile.plan.assumed import assumed_plans
from patch_compile.plan.cards import DEFAULT_TARGET, card_of, card_of_gpu, find_card
from patch_compile.plan.cost import CostModel
from patch_compile.plan.inversion import unreachable
from patch_compile.plan.lowering_patterns import asked_lowerings
from patch_compile.plan.outline import outline_of
from patch_compile.plan.settle_together import settle_together
from patch_compile.plan.speed_goal import SpeedGoal
from patch_compile.plan.whole_model import predict_whole
from patch_compile.progress import Progress
from patch_compile.recipe import Recipe

if TYPE_CHECKING:
    from patch_compile.hardware.targets import Target
    from patch_compile.plugin.build import PluginLibrary

__all__ = [
    "Job",
    "check_free_space",
    "choose_backend",
    "choose_out",
    "choose_targets",
    "load_plugin",
    "prepare",
    "prepare_learning",
]

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
    costs: CostModel | None = None  # what speed is predicted by; None where the card is not known

    @property
    def fingerprint(self) -> str:
        """sha256 of the model."""
        return self.checkpoint.fingerprint()


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
    _check_encoder_text(recipe, checkpoint)
    out = choose_out(recipe, ratio, progress)
    check_out(out, force=force, resume=resume)
    backend = choose_backend(recipe, progress)
    targets = choose_targets(recipe, backend, progress)
    costs = _costs(recipe, checkpoint)
    asked = asked_lowerings(recipe.lowering, list(coverage.linears))
    if recipe.goal is not None:
        _check_goal(recipe, recipe.goal, checkpoint, coverage, costs)
    _check_space(checkpoint, recipe, out, _compiled_bytes(checkpoint, backend))
    plugin = load_plugin(backend, progress) if {"auto", "plugin"} & {*asked.values()} else None
    return Job(recipe, out, checkpoint, coverage, given, backend, targets, plugin, costs)


def prepare_learning(recipe: Recipe, progress: Progress, *, force: bool, resume: bool) -> Job:
    """The same for learning masks alone: a job without backend, targets and plugin."""
    if recipe.is_onnx:
        raise PatchCompileError(
            f"learn takes a model directory, not {recipe.model}",
            "an ONNX file is pruned by what reaches its linears, as part of its build",
            "patch-compile build takes ONNX files",
        )
    checkpoint = Checkpoint.open(recipe.model)
    coverage = covered_linears_of(checkpoint, recipe.include, recipe.exclude)
    _check_text(recipe)
    out = choose_out(recipe, recipe.ratio, progress)
    check_out(out, force=force, resume=resume)
    _check_space(checkpoint, recipe, out, compiled=0)
    return Job(recipe, out, checkpoint, coverage, None, "onnx", (), None)


def prepare_compiling(recipe: Recipe, progress: Progress, *, force: bool, resume: bool = False) -> Job:
    """The same for compiling given masks to ONNX: a job without backend, targets and plugin."""
    if recipe.is_onnx:
        raise PatchCompileError(
            f"compile takes a model directory, not {recipe.model}",
            "an ONNX file is pruned and compiled by its build",
            "patch-compile build takes ONNX files, and --backend onnx stops it there",
        )
    if recipe.mask is None:
        raise PatchCompileError("no mask given", "compile learns nothing", "give --mask FILE, or use build")
    checkpoint = Checkpoint.open(recipe.model)
    check_exportable(checkpoint)
    coverage = covered_linears_of(checkpoint, recipe.include, recipe.exclude)
    masks = MaskSet.load(recipe.mask)
    masks.check_covers(coverage.linears)
    asked_lowerings(recipe.lowering, list(coverage.linears))
    out = choose_out(recipe, masks.ratio, progress)
    check_out(out, force=force, resume=resume)
    check_free_space(out, int(2 * _weights(checkpoint) * _PACKED_SHARE))
    given = _weights_of(masks, recipe.mask, checkpoint)
    return Job(recipe, out, checkpoint, coverage, given, "onnx", (), None, _costs(recipe, checkpoint))


def _weights_of(masks: MaskSet, file: Path, checkpoint: Checkpoint) -> Checkpoint:
    """Masks that were learned together with new weights belong to the model folder beside them, and only to it."""
    digest = masks.record.weights
    if digest is None:
        return checkpoint
    folder = file.parent / MODEL
    if not folder.is_dir():
        raise PatchCompileError(
            f"{file} was learned together with new weights",
            f"they belong into {folder}, and nothing is there",
            f"keep {MASKS} beside the folder it was written with, or learn again with --repair none "
            "--method wanda and without --permute, which keeps the weights",
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


def _check_encoder_text(recipe: Recipe, checkpoint: Checkpoint) -> None:
    if architecture_of(checkpoint).encoder and recipe.eval_text is None and recipe.calib is None:
        raise PatchCompileError(
            f"{recipe.model} is compared on text, and none is given",
            "it is an encoder, which writes no text of its own",
            "give text with --eval, or with --calib",
        )


def choose_out(recipe: Recipe, ratio: float | str | None, progress: Progress) -> Path:
    """OUT, or the name of model and ratio where none is given."""
    if recipe.out is not None:
        return recipe.out
    name = f"{ratio:.2f}" if isinstance(ratio, float) else recipe.goal.short if recipe.goal else "mixed"
    model = recipe.model.stem if recipe.is_onnx else recipe.model.resolve().name
    out = Path(f"{model}-patch-{name}")
    progress.note(f"output: ./{out} (no -o given)")
    return out


def choose_backend(recipe: Recipe, progress: Progress) -> str:
    """The backend asked for, or the best that this machine has.

    PatchCompileError when it can't be used here, or lacks an option of the engine that is asked for.
    """
    from patch_compile.engine.backend import BackendName, default_backend, load_backend

    if recipe.backend is None:
        name, why = default_backend()
        progress.note(f"backend: {name} ({why})")
    else:
        name = BackendName(recipe.backend)
        if name is not BackendName.ONNX:
            load_backend(name)
    recipe.engine_options().check(name)
    return str(name)


def choose_targets(recipe: Recipe, backend: str, progress: Progress) -> tuple[Target, ...]:
    """What to build for: as asked, or this machine's GPU. PatchCompileError when the backend can't."""
    from patch_compile.engine.backend import load_backend
    from patch_compile.hardware.targets import local_target, parse_targets

    if recipe.target is not None:
        targets = parse_targets(recipe.target)
    else:
        local = local_target()
        targets = (local,) if local else parse_targets(DEFAULT_TARGET)
        if backend != "onnx":
            why = "the GPU of this machine" if local else "no GPU here"
            progress.note(f"target: {targets[0].name} ({why})")
    if backend == "onnx":
        return ()
    load_backend(backend).check_targets(targets)
    return targets


def _costs(recipe: Recipe, checkpoint: Checkpoint) -> CostModel | None:
    """Of the card that is built for, as far as the table of devices tells."""
    from patch_compile.hardware.gpu import local_gpu

    gpu = local_gpu() if recipe.target is None else None
    card = card_of_gpu(gpu) if gpu else find_card(recipe.target or DEFAULT_TARGET)
    return CostModel(card, recipe.workload_of(checkpoint)) if card else None


def _check_goal(
    recipe: Recipe, goal: SpeedGoal, checkpoint: Checkpoint, coverage: Coverage, costs: CostModel | None
) -> None:
    """SpeedError when not even all tiles 2:4 are as fast as asked, PatchCompileError where nothing is predicted."""
    costs = costs or CostModel(card_of(recipe.target or DEFAULT_TARGET), recipe.workload_of(checkpoint))
    sparse = dict.fromkeys(coverage.linears, 0.5)
    outline = outline_of(checkpoint, coverage, recipe.fuse)
    plans = assumed_plans(coverage.linears, recipe.tile, sparse, recipe.lowering, costs)
    plans = settle_together(plans, recipe.lowering, outline, costs)
    best = predict_whole(plans.values(), outline, costs).end_to_end
    if not goal.met(best):
        raise unreachable(goal, best)


def load_plugin(backend: str, progress: Progress) -> PluginLibrary | None:
    """The plugin for a backend, built unless the cache holds it; None where no engine is built."""
    if backend == "onnx":
        return None
    from patch_compile.plugin.build import build_plugin

    with progress.stage("plugin"):
        return build_plugin(backend)


def _check_space(checkpoint: Checkpoint, recipe: Recipe, out: Path, compiled: int) -> None:
    """Everything has to fit, with nothing removed; compiled: bytes of ONNX files and engine."""
    needed = compiled + (_learning_bytes(checkpoint, recipe) if recipe.mask is None else 0)
    needed += _stored(checkpoint)  # the pruned checkpoint
    check_free_space(out, needed)


def check_free_space(out: Path, needed: int) -> None:
    """Raise PatchCompileError unless the disk of OUT has room for so many bytes."""
    home = next(parent for parent in place_of(out).parents if parent.exists())
    free = shutil.disk_usage(home).free
    if free < needed:
        raise PatchCompileError(
            f"no space for {out}",
            f"it needs up to {needed / 1e9:.1f} GB, {home} has {free / 1e9:.1f} GB",
            "make room, or write to another disk with -o",
        )


def _learning_bytes(checkpoint: Checkpoint, recipe: Recipe) -> int:
    """Permuted, solved and repaired weights, and two checkpoints of training: the newest and the one being written."""
    from masklearn.device import available_memory, usable_device

    stored = _stored(checkpoint) * (1 + recipe.permute + recipe.repairs)
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
