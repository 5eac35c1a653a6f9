"""Everything about an ONNX file that can be found out, and refused, before any work is done."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from masklearn.checkpoint.coverage import Coverage
from masklearn.masks.budget import Budget
from masklearn.masks.maskset import MaskSet
from masklearn.masks.names import check_patterns, kinds_of, matches
from masklearn.methods.magnitude import Magnitude
from patch_compile.engine.profiles import parse_profile, profiles_from_onnx
from patch_compile.errors import PatchCompileError
from patch_compile.onnx_io.external import data_files
from patch_compile.onnx_io.feeds import Feeds, feeds_from_npz, input_dtypes, random_feeds
from patch_compile.onnx_io.graph_inputs import GraphInput, read_inputs
from patch_compile.onnx_io.runnable import holds_bfloat16
from patch_compile.onnx_io.session import open_session
from patch_compile.out.layout import MASKS, PRUNED_ONNX
from patch_compile.out.workspace import check_out, sha256_of
from patch_compile.plan.lowering_patterns import asked_lowerings
from patch_compile.progress import Progress
from patch_compile.recipe import Recipe
from patch_compile.sources.checkpoint.source import (
    check_free_space,
    choose_backend,
    choose_out,
    choose_targets,
    load_plugin,
)
from patch_compile.sources.onnx_model.find import find_onnx_linears
from patch_compile.sources.onnx_model.linears import FoundLinears, OnnxLinear
from patch_compile.sources.onnx_model.options import effective_recipe
from patch_compile.sources.onnx_model.read import read_onnx

if TYPE_CHECKING:
    import onnx_ir as ir

    from patch_compile.hardware.targets import Target
    from patch_compile.plugin.build import PluginLibrary

__all__ = ["OnnxJob", "fingerprint_of", "prepare_onnx"]

_MOMENT_BYTES = 4


@dataclass(frozen=True)
class OnnxJob:
    """A checked recipe for an ONNX file, with its defaults filled in; see `patch_compile.sources.checkpoint.Job`.

    files: the model and its data; feeds: what learning (if they are calibration inputs) and proof run it on; source: the
    model whose weights belong to the masks: the file itself, or the one that was written with the masks given.
    """

    recipe: Recipe
    out: Path
    files: tuple[Path, ...]
    coverage: Coverage
    feeds: Feeds
    source: Path
    backend: str
    targets: tuple[Target, ...]
    plugin: PluginLibrary | None
    costs: None = None  # speed is predicted for checkpoints alone

    @cached_property
    def fingerprint(self) -> str:
        """sha256 over the sha256 of the model and of its data files."""
        return fingerprint_of(self.files)


def prepare_onnx(recipe: Recipe, progress: Progress, *, force: bool, resume: bool) -> OnnxJob:
    """Check the model, the options, inputs, masks, OUT, backend, targets, shapes and plugin; say each default taken.

    Raises PatchCompileError for anything that would stop the build later.
    """
    path = recipe.model
    model = read_onnx(path)
    found = find_onnx_linears(path, model)
    recipe = effective_recipe(recipe, _sixteen_bit(found))
    coverage = _covered(found, recipe.include, recipe.exclude)
    _check_spellings(recipe, list(coverage.linears))
    files = (path, *data_files(model))
    inputs = read_inputs(path)
    feeds, recipe = _feeds(recipe, inputs, model, progress)
    _check_runs(path)
    ratio, source = recipe.ratio, path
    if recipe.mask is not None:
        masks = MaskSet.load(recipe.mask)
        masks.check_covers(coverage.linears)
        ratio, source = masks.ratio, _source_of(masks, recipe.mask, path)
    else:
        progress.note(f"method: {recipe.method}, {_why(recipe)}")
    out = choose_out(recipe, ratio, progress)
    check_out(out, force=force, resume=resume)
    backend = choose_backend(recipe, progress)
    targets = choose_targets(recipe, backend, progress)
    if backend != "onnx":
        profiles_from_onnx(path, recipe.min_shapes, recipe.opt_shapes, recipe.max_shapes)
    check_free_space(out, _needed(files, found.linears, coverage))
    plugin = load_plugin(backend, progress)
    return OnnxJob(recipe, out, files, coverage, feeds, source, backend, targets, plugin)


def _sixteen_bit(found: FoundLinears) -> Literal["float16", "bfloat16"] | None:
    """The 16-bit type that all linears compute in, if they do."""
    names = {linear.dtype.name for linear in found.linears.values()}
    if names == {"FLOAT16"}:
        return "float16"
    return "bfloat16" if names == {"BFLOAT16"} else None


def _covered(found: FoundLinears, include: Sequence[str], exclude: Sequence[str]) -> Coverage:
    check_patterns(include, list(found.linears), "--include")
    check_patterns(exclude, list(found.linears), "--exclude")
    skipped = dict(found.skipped)
    for name in found.linears:
        if matches(name, *exclude):
            skipped[name] = "excluded"
        elif include and not matches(name, *include):
            skipped[name] = "not included"
    covered = {name: linear.shape for name, linear in found.linears.items() if name not in skipped}
    if not covered:
        raise PatchCompileError(
            "no linear is covered",
            f"the model has {', '.join(kinds_of(found.linears))}",
            "give other --include and --exclude patterns",
        )
    return Coverage(covered, skipped)


def _check_spellings(recipe: Recipe, names: list[str]) -> None:
    """Patterns of --ratio and --lowering fit linears. Raises PatchCompileError."""
    asked_lowerings(recipe.lowering, names)
    if recipe.ratio is not None:
        Budget.of(recipe.ratio, recipe.per_layer).by_linear(names)


def _feeds(
    recipe: Recipe, inputs: tuple[GraphInput, ...], model: ir.Model, progress: Progress
) -> tuple[Feeds, Recipe]:
    """What the model is run on; with calibration inputs and no shapes given, the engine is built for their shapes."""
    dtypes = input_dtypes(model)
    shapes = (recipe.min_shapes, recipe.opt_shapes, recipe.max_shapes)
    if recipe.calib is not None:
        calib = Path(recipe.calib)
        feeds = feeds_from_npz(calib, inputs, dtypes)
        if not any(shapes) and any(i.is_dynamic for i in inputs):
            recipe = recipe.model_copy(update=_shapes_of(feeds, inputs))
            progress.note(f"shapes: those of {calib.name} (none given)")
        return feeds, recipe
    sizes = {}
    if any(shapes):
        low, opt, high = shapes
        profile = parse_profile(inputs, min_shapes=low, opt_shapes=opt, max_shapes=high)
        sizes = {name: one.opt for name, one in profile.shapes.items()}
    feeds = random_feeds(inputs, dtypes, sizes, recipe.seed)
    progress.note(f"compared on {feeds.words}: no --calib given")
    return feeds, recipe


def _shapes_of(feeds: Feeds, inputs: tuple[GraphInput, ...]) -> dict[str, str]:
    """Settings for the smallest, the first and the largest size of each axis among the feeds."""
    spelled: dict[str, list[str]] = {"min_shapes": [], "opt_shapes": [], "max_shapes": []}
    for i in (i for i in inputs if i.is_dynamic):
        shapes = [feed[i.name].shape for feed in feeds]
        chosen = ([min(axis) for axis in zip(*shapes, strict=True)], shapes[0])
        for kind, shape in zip(spelled, (*chosen, map(max, zip(*shapes, strict=True))), strict=True):
            spelled[kind].append(f"{i.name}:{'x'.join(map(str, shape))}")
    return {kind: ",".join(parts) for kind, parts in spelled.items()}


def _check_runs(path: Path) -> None:
    """Raise PatchCompileError when ONNX Runtime refuses the file; of a bfloat16 model only a copy is ever run."""
    if not holds_bfloat16(path):
        open_session(path)


def _source_of(masks: MaskSet, file: Path, path: Path) -> Path:
    """Masks that were learned together with new weights belong to the model beside them, and only to it."""
    digest = masks.record.weights
    if digest is None:
        return path
    source = file.parent / PRUNED_ONNX
    if not source.is_file():
        raise PatchCompileError(
            f"{file} was learned together with new weights",
            f"they belong into {source}, and nothing is there",
            f"keep {MASKS} beside the folder it was written with",
        )
    if fingerprint_of((source, *data_files(read_onnx(source)))) != digest:
        raise PatchCompileError(
            f"{source} does not hold the weights that {file.name} was learned with",
            "its sha256 is another one",
            "use the two as they were written",
        )
    return source


def fingerprint_of(files: Sequence[Path]) -> str:
    """sha256 over the sha256 of each file."""
    return hashlib.sha256("".join(map(sha256_of, files)).encode()).hexdigest()


def _why(recipe: Recipe) -> str:
    if recipe.calib is None:
        return "since no --calib is given" if recipe.method == Magnitude.name else "asked for"
    return "on the inputs of --calib"


def _needed(files: Sequence[Path], linears: dict[str, OnnxLinear], coverage: Coverage) -> int:
    """Bytes: model, pruned and hybrid model, engine, and two copies in scratch; moments of every distinct X."""
    stored = sum(file.stat().st_size for file in files)
    xs: dict[Any, int] = {linears[name].x: shape[1] for name, shape in coverage.linears.items()}
    return 5 * stored + sum(_MOMENT_BYTES * k * k for k in xs.values())
