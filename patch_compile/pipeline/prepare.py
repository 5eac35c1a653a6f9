"""Checks everything that can be checked before any work is done."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from masklearn.base.processes import is_main_process
from masklearn.base.threads import settle_threads
from masklearn.choice.goal import Goal
from masklearn.choice.menu import allowed_kinds, allowed_types
from masklearn.choice.solve import Chooser
from masklearn.masks.maskset import MaskSet
from masklearn.model.checkpoint import InputSnapshot
from patch_compile.artifacts.place import check_apart, check_free_space, check_out
from patch_compile.errors import PatchCompileError, SpeedError
from patch_compile.pipeline.choose import (
    chooser_of,
    little_gain,
    plans_as_asked,
    settle_open,
    with_assumed_types,
    with_pairs,
)
from patch_compile.pipeline.resumed import check_resumed
from patch_compile.planning.cards import DEFAULT_TARGET, card_of, card_of_gpu, find_card
from patch_compile.planning.cost import CostModel
from patch_compile.planning.lowering import AUTO, asked_lowerings, lowerings_of, with_static_scales
from patch_compile.planning.predict import regime
from patch_compile.plugin.prebuilt import DISTRIBUTION
from patch_compile.progress import Progress, quiet_libraries
from patch_compile.recipe import GraphRecipe, Recipe
from patch_compile.report.prediction import dequantised_line, little_gain_line, tried_line
from patch_compile.sources.base import Source, Stage, TextSource
from patch_compile.sources.checkpoint_weights import CheckpointWeights
from patch_compile.sources.open import inputs_of, needed, open_graph, open_source
from patch_compile.sources.plan_task import PlanTask

if TYPE_CHECKING:
    from patch_compile.hardware.cards import GpuArchitecture
    from patch_compile.plugin.build import PluginLibrary


@dataclass(frozen=True)
class Job:
    """A checked recipe and the stages to run.

    source: the model; task: what is planned, by a recipe that has all defaults and leaves nothing open; targets, plugin:
    empty and None for the backend `onnx`; costs: the cost model that predicts speed, None if no speed can be predicted;
    chooser: chooses tiles by their scores, None if the ratio counts over all linears; files: the files that the build reads,
    as they were at its start.
    """

    source: Source
    task: PlanTask
    out: Path
    stages: frozenset[Stage]
    backend: str
    targets: tuple[GpuArchitecture, ...]
    plugin: PluginLibrary | None
    costs: CostModel | None
    chooser: Chooser | None
    files: InputSnapshot

    @property
    def recipe(self) -> Recipe:
        return self.task.recipe


def prepare(
    recipe: Recipe, progress: Progress, *, stages: Collection[Stage] = tuple(Stage), force: bool, resume: bool
) -> Job:
    """Check model, masks, texts, OUT, backend, targets, speed, disk space and plugin, as far as the stages need them.

    Prints a note for each default that is chosen. Raises PatchCompileError for anything that would stop one of the stages
    later, for a ratio at which no linear gains, and SpeedError for a speed that cannot be reached.
    """
    settle_threads()
    asked = frozenset(stages)
    if Stage.ONNX in asked or recipe.target is not None:
        recipe.check_plannable()
    source: Source = open_graph(recipe) if isinstance(recipe, GraphRecipe) else open_source(recipe)
    if asked == {Stage.MASKS}:
        needed(source, TextSource, "learn")  # type: ignore[type-abstract]
    elif asked == {Stage.ONNX}:
        needed(source, CheckpointWeights, "compile")
    quiet_libraries([getattr(recipe, name) for name in source.format.texts])
    files = InputSnapshot.of(lambda: inputs_of(source, recipe))
    if Stage.MASKS not in asked and recipe.mask is None:
        raise PatchCompileError(
            "No mask is given", "`compile` learns nothing.", "Give --mask FILE, or use `build`."
        )
    source.check(asked)
    task = PlanTask.of(source)
    _check_patterns(source, task, asked)
    for line in (*source.notes, *_masks_of_another(source)):
        progress.note(line)
    if recipe.idle:
        idle = ", ".join(recipe.idle)
        progress.note(f"given masks: {idle} do not change them: masks and weights are learned already")
    if line := dequantised_line(source.dequantised):
        progress.note(line)
    out = _choose_out(source, progress)
    check_apart(out, (source.model, *files.states))
    check_out(out, force=force, resume=resume)
    backend = "onnx"
    targets: tuple[GpuArchitecture, ...] = ()
    if Stage.ENGINE in asked:
        backend = _choose_backend(task.recipe, progress)
        targets = _choose_targets(task.recipe, backend, progress)
    if targets:
        source.check_shapes()
    else:
        asked -= {Stage.ENGINE}
    lowers = Stage.ONNX in asked or recipe.target is not None or recipe.goal is not None
    costs = costs_of(task) if lowers else None
    if Stage.MASKS in asked:
        with _naming_the_method(task.recipe):
            settled = settle_open(task, costs)
        task = settled.task
        if settled.tried:
            progress.note(tried_line(settled.tried, recipe.asked))
    with _naming_the_method(task.recipe):
        chooser = chooser_of(task, costs, progress.note) if lowers and Stage.MASKS in asked else None
    if Stage.MASKS in asked:
        chooser = with_pairs(chooser, task, recipe.lowering if lowers else AUTO, progress.note)
    if resume and Stage.MASKS in asked and is_main_process():
        check_resumed(out, source, task.recipe, costs, chooser)
    if costs is not None and Stage.MASKS in asked and recipe.mask is None:
        _warn_of_little_gain(task, costs, progress)
    check_free_space(out, source.space(task.recipe, asked))
    plugin = _plugin(task, _given(source), backend, targets, progress)
    return Job(source, task, out, asked, backend, targets, plugin, costs, chooser, files)


@contextmanager
def _naming_the_method(recipe: Recipe) -> Iterator[None]:
    """Add to the error for a speed that the method leaves the weights in 16 bits, if the user left their types open."""
    try:
        yield
    except SpeedError as error:
        if recipe.weights is not None or recipe.can_choose_types:
            raise
        why = f"{error.why} {recipe.chooser} can't choose types of weights, so they stay in 16 bits."
        fix = f"{recipe.CHOOSING_TYPES}, or name a type with `weights`. {error.fix}"
        raise SpeedError(error.what, why, fix, fastest=error.fastest) from None


def _masks_of_another(source: Source) -> Iterator[str]:
    """Yield a warning if the given masks were made for another model, whose linears have the same names and shapes."""
    file = source.recipe.mask
    if file is None or source.given.masks.base_sha256 == source.fingerprint:
        return
    yield (
        f"warning: the masks {file} were not made for the weights of {source.model} but for the model "
        f"{source.given.masks.base_model or 'of an unknown name'}, which has another sha256; "
        "they may zero weights that this model needs"
    )


def _warn_of_little_gain(task: PlanTask, costs: CostModel, progress: Progress) -> None:
    """Print a warning if pruned tiles are predicted to gain too little."""
    if task.chooses_types:
        task = with_assumed_types(task, costs)
    plans, _ = plans_as_asked(task, costs)
    assert task.outline is not None  # there would be no costs
    if advice := little_gain(task, plans, costs, regime(plans.values(), task.outline, costs)):
        progress.note(f"warning: {little_gain_line(advice)}")


def _check_patterns(source: Source, task: PlanTask, stages: Collection[Stage]) -> None:
    """Raise an error if a pattern of --ratio, --weights or --lowering matches no linear or decides for none, or if a weight
    type fits neither its linear nor the graph."""
    r, names = task.recipe, list(task.linears)
    if Stage.MASKS in stages:
        allowed = allowed_types(r.weights, task.linears)
        if r.mask is None:
            allowed_kinds(r.kinds, task.linears, r.tile_size, allowed)
    if Stage.MASKS in stages and r.mask is None and r.ratio is not None:
        Goal.of_ratio(r.ratio, r.per_layer).by_linear(names)
    if Stage.ONNX in stages:
        types = {} if task.chooses_types else task.weight_types(_given(source))
        lowerings_of(r.lowering, names, types)
        r.check_weights()
        _check_scales(source, with_static_scales(r.lowering, names, types), stages)


def _check_scales(source: Source, linears: Sequence[str], stages: Collection[Stage]) -> None:
    """Raise PatchCompileError if linears need static scales of their activations that nothing will find."""
    if not linears:
        return
    if not isinstance(source, CheckpointWeights):
        raise PatchCompileError(
            f"{linears[0]} has w8a8 weights and can't be lowered as split",
            "Its activations need static scales, which are found by running a Hugging Face model block by block.",
            "Give the model's folder, or --lowering plugin, which takes a scale for each token.",
        )
    masks = _given(source)
    lacking = [
        name for name in linears if masks and name in masks.grids and not masks.grids[name].activations
    ]
    if lacking and Stage.MASKS not in stages:
        raise PatchCompileError(
            f"{source.recipe.mask} has no static scales for {lacking[0]}"
            + (f" and {len(lacking) - 1} other linears" if lacking[1:] else ""),
            "A linear of type w8a8 needs them to be lowered as split, and `compile` runs no model to find them.",
            "Use `build` with the same --mask, --lowering and --weights, or --lowering plugin.",
        )


def _given(source: Source) -> MaskSet | None:
    return None if source.recipe.mask is None else source.given.masks


def _choose_out(source: Source, progress: Progress) -> Path:
    """Returns OUT; without -o its name is made of the model and the ratio."""
    r = source.recipe
    if r.out is not None:
        return r.out
    ratio = r.ratio if r.mask is None else source.given.masks.ratio
    name = f"{ratio:.2f}" if isinstance(ratio, float) else r.goal.short if r.goal else "mixed"
    out = Path(f"{source.name}-patch-{name}")
    progress.note(f"output: ./{out} (no -o given)")
    return out


def _choose_backend(recipe: Recipe, progress: Progress) -> str:
    """Returns the requested backend, or the best backend that this machine has.

    Raises PatchCompileError if the backend cannot be used here or lacks a requested option of the engine, and if a target
    is given but no library here builds engines.
    """
    from patch_compile.engine.backend import BackendName, default_backend, load_backend

    if recipe.backend is None:
        name, why = default_backend()
        if name is BackendName.ONNX and recipe.target is not None:
            raise PatchCompileError(
                f"No engine can be built for {recipe.target} here",
                f"No TensorRT works on this machine: {why}.",
                "Install TensorRT-RTX, which needs no GPU: `pip install 'patch-compile[rtx]'`. Or stop at the ONNX file: "
                "`--backend onnx`.",
            )
        progress.note(f"backend: {name} ({why})")
    else:
        name = BackendName(recipe.backend)
        if name is not BackendName.ONNX:
            load_backend(name)
    recipe.engine_options().check(name)
    return str(name)


def _choose_targets(recipe: Recipe, backend: str, progress: Progress) -> tuple[GpuArchitecture, ...]:
    """Returns the requested targets, or this machine's GPU. Raises PatchCompileError if the backend cannot build for
    them."""
    from patch_compile.engine.backend import load_backend
    from patch_compile.hardware.cards import local_architecture, parse_architectures

    if recipe.target is not None:
        targets = parse_architectures(recipe.target)
    else:
        local = local_architecture()
        targets = (local,) if local else parse_architectures(DEFAULT_TARGET)
        if backend != "onnx":
            why = "the GPU of this machine" if local else "no GPU here"
            progress.note(f"target: {targets[0].name} ({why})")
    if backend == "onnx":
        return ()
    load_backend(backend).check_targets(targets)
    return targets


def costs_of(task: PlanTask) -> CostModel | None:
    """Returns the cost model of the target's card; None if no speed is predicted, or the table of cards lacks the card.

    Raises PatchCompileError if a speed is requested and the table of cards lacks the card.
    """
    from patch_compile.hardware.gpu import local_gpu

    if task.workload is None:
        return None
    target, goal = task.recipe.target, task.recipe.goal
    gpu = local_gpu() if target is None else None
    card = card_of_gpu(gpu) if gpu else find_card(target or DEFAULT_TARGET)
    if goal is not None and card is None:
        card = card_of(target or DEFAULT_TARGET)
    return CostModel(card, task.workload) if card else None


def _plugin(
    task: PlanTask,
    given: MaskSet | None,
    backend: str,
    targets: tuple[GpuArchitecture, ...],
    progress: Progress,
) -> PluginLibrary | None:
    """Compile the plugin for a backend or take it from the cache; None if there is no engine or the engine needs no
    plugin.

    Raises UsageError if PATCH_COMPILE_PLUGIN_ARCHS asks for a plugin that a target does not run.
    """
    if backend == "onnx":
        return None
    asked = asked_lowerings(task.recipe.lowering, list(task.linears))
    quantised = task.linears if task.chooses_types else task.weight_types(given)
    # Dense linears of quantised weights are for the plugin too.
    if all(
        lowering == "split" or (lowering == "dense" and name not in quantised)
        for name, lowering in asked.items()
    ):
        return None
    from patch_compile.plugin.build import build_plugin
    from patch_compile.plugin.targets import archs_for

    archs = archs_for([target.sm for target in targets])
    with progress.stage("plugin"):
        library = build_plugin(backend, archs=archs, kernels=task.kernels(given))
    progress.note(_headers_line(library))
    return library


def _headers_line(plugin: PluginLibrary) -> str:
    if plugin.headers is None:
        sms = ", ".join(f"sm{arch}" for arch in plugin.archs)
        return f"plugin: the library of {DISTRIBUTION} that this release was made with, for {sms}"
    headers = f"plugin: compiled with TensorRT's headers, version {plugin.headers_version}, of"
    if plugin.headers_package is None:
        return f"{headers} {plugin.headers}"
    return (
        f"{headers} {plugin.headers_package}, a package of a third party that is pinned by its sha256; TENSORRT_ROOT names "
        "an installed TensorRT to take them from instead"
    )
