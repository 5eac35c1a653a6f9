"""Facts about an ONNX file that are known before any work: its linears, the settings that follow from it, and its
inputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from masklearn import METHODS, Criterion, Magnitude, Repair, Requires, lacking
from masklearn.masks.name_globs import check_patterns, kinds_of, matches
from masklearn.model.coverage import Coverage
from patch_compile.engine.profiles import parse_profile
from patch_compile.errors import PatchCompileError, UsageError
from patch_compile.onnx_io.feeds import Feeds, feeds_from_npz, input_dtypes, random_feeds, table_rows
from patch_compile.onnx_io.graph_inputs import GraphInput, read_inputs
from patch_compile.onnx_io.proto import refusing_invalid
from patch_compile.onnx_io.read import read_onnx
from patch_compile.options import flag_of
from patch_compile.passes.find_linears import linears_of_file
from patch_compile.passes.linears import FoundLinears, Linear
from patch_compile.recipe import Recipe
from patch_compile.sources.onnx_model.feed import LACKS

if TYPE_CHECKING:
    import onnx_ir as ir

_SHOWN = 8  # kinds of linears that an error names
_NO_TEXT = "An ONNX file is calibrated on inputs, not on text."
_NO_TRAINING = LACKS[Requires.TRAINING]
_NO_TOKENS = "An ONNX file is compared on its inputs, not on text."
_NO_BLOCKS = "Channels are permuted in the feed-forward parts of a checkpoint's blocks, which an ONNX file does not name."
_NO_SPEED = "Speed is predicted for decoders and encoders of checkpoints."
_REFUSED: Mapping[str, str] = {
    **dict.fromkeys(("windows", "length"), _NO_TEXT),
    **dict.fromkeys(("repair_steps", "repair_minutes", "batch", "prior", "steps"), _NO_TRAINING),
    **dict.fromkeys(("eval_text", "eval_windows", "eval_length"), _NO_TOKENS),
    **dict.fromkeys(("speedup", "batch_size", "prompt_tokens", "generated_tokens"), _NO_SPEED),
    "permute": _NO_BLOCKS,
    "pruned": "Only masks of checkpoints are imported.",
    "logits": "An ONNX file keeps its outputs.",
    "opset": "An ONNX file keeps its opset (20 where it is older).",
}


@dataclass(frozen=True)
class OnnxFacts:
    """Facts about the ONNX file of a recipe.

    recipe: the settings with the file's own defaults; feeds: inputs on which masks are learned and models compared; weights:
    number of elements in its initializers; inputs: K of every distinct X of the covered linears; notes: lines about defaults
    that were chosen.
    """

    recipe: Recipe
    coverage: Coverage
    feeds: Feeds
    weights: int
    inputs: tuple[int, ...]
    notes: tuple[str, ...]

    @property
    def dtype(self) -> ir.DataType:
        """The 16-bit type of packed weights."""
        import onnx_ir as ir

        return ir.DataType[self.recipe.dtype.upper()]

    def read(self, path: Path) -> tuple[ir.Model, dict[str, Linear]]:
        """Read the file or its pruned form, and return the model with its covered linears."""
        model = read_onnx(path)
        found = linears_of_file(path, model).linears
        return model, {name: found[name] for name in self.coverage.linears}


def examine(asked: Recipe) -> OnnxFacts:
    """Find out everything about the file of a recipe, without keeping a weight in memory.

    Raises PatchCompileError for a file that cannot be read or has no linear to prune, and for inputs that do not fit it.
    Raises UsageError for settings that do not go with an ONNX file.
    """
    with refusing_invalid(asked.model):
        return _examined(asked)


def _examined(asked: Recipe) -> OnnxFacts:
    path = asked.model
    model = read_onnx(path)
    found = linears_of_file(path, model)
    recipe = effective_recipe(asked, _sixteen_bit(found))
    coverage = _covered(found, recipe.include, recipe.exclude)
    recipe, feeds, notes = _feeds(recipe, path, model)
    if recipe.mask is None:
        notes = (*notes, f"method: {recipe.method}, {_why(recipe)}")
    stored = list(model.graph.initializers.values())
    covered: dict[Any, int] = {found.linears[name].x: k for name, (_, k) in coverage.linears.items()}
    return OnnxFacts(
        recipe,
        coverage,
        feeds,
        weights=sum(value.const_value.size for value in stored if value.const_value is not None),
        inputs=tuple(covered.values()),
        notes=notes,
    )


def _sixteen_bit(found: FoundLinears) -> Literal["float16", "bfloat16"] | None:
    """Returns the 16-bit type that all linears compute in; None if they compute in other types."""
    names = {linear.dtype.name for linear in found.linears.values()}
    if names == {"FLOAT16"}:
        return "float16"
    return "bfloat16" if names == {"BFLOAT16"} else None


def _covered(found: FoundLinears, include: Sequence[str], exclude: Sequence[str]) -> Coverage:
    """Returns the linears that the patterns cover. Raises PatchCompileError if there are none."""
    check_patterns(include, list(found.linears), "--include")
    check_patterns(exclude, list(found.linears), "--exclude")
    skipped: dict[str, str] = {**found.skipped}
    for name in found.linears:
        if matches(name, *exclude):
            skipped[name] = "excluded"
        elif include and not matches(name, *include):
            skipped[name] = "not included"
    covered = {name: linear.shape for name, linear in found.linears.items() if name not in skipped}
    if not covered:
        kinds = kinds_of(found.linears)
        raise PatchCompileError(
            "No linear is covered",
            f"The model has {', '.join([*kinds[:_SHOWN], *(['…'] if len(kinds) > _SHOWN else [])])}.",
            "Give other --include and --exclude patterns.",
        )
    return Coverage(covered, skipped)


def _feeds(recipe: Recipe, path: Path, model: ir.Model) -> tuple[Recipe, Feeds, tuple[str, ...]]:
    """Returns the recipe, the inputs that the model is run on, and notes.

    If calibration inputs but no shapes are given, the returned recipe has the shapes of the inputs.
    """
    inputs, dtypes = read_inputs(path), input_dtypes(path, model)
    shapes = (recipe.min_shapes, recipe.opt_shapes, recipe.max_shapes)
    if recipe.calib is not None:
        calib = Path(recipe.calib)
        feeds = feeds_from_npz(calib, inputs, dtypes)
        if any(shapes) or not any(i.is_dynamic for i in inputs):
            return recipe, feeds, ()
        shaped = recipe.model_copy(update=_shapes_of(feeds, inputs))
        return shaped, feeds, (f"shapes: from {calib.name} (none given)",)
    sizes = {}
    if any(shapes):
        low, opt, high = shapes
        profile = parse_profile(inputs, min_shapes=low, opt_shapes=opt, max_shapes=high)
        sizes = {name: one.opt for name, one in profile.shapes.items()}
    feeds = random_feeds(path, inputs, dtypes, sizes, table_rows(model), recipe.seed)
    return recipe, feeds, (f"compared on {feeds.words}: no --calib given",)


def _shapes_of(feeds: Feeds, inputs: tuple[GraphInput, ...]) -> dict[str, str]:
    """Returns shape settings with the smallest, the first and the largest size of each axis among the feeds."""
    spelled: dict[str, list[str]] = {"min_shapes": [], "opt_shapes": [], "max_shapes": []}
    for i in (i for i in inputs if i.is_dynamic):
        shapes = [feed[i.name].shape for feed in feeds]
        chosen = ([min(axis) for axis in zip(*shapes, strict=True)], shapes[0])
        for kind, shape in zip(spelled, (*chosen, map(max, zip(*shapes, strict=True))), strict=True):
            spelled[kind].append(f"{i.name}:{'x'.join(map(str, shape))}")
    return {kind: ",".join(parts) for kind, parts in spelled.items()}


def _why(recipe: Recipe) -> str:
    if recipe.calib is None:
        return "since no --calib is given" if recipe.method == Magnitude.name else "asked for"
    return "on the inputs of --calib"


def effective_recipe(recipe: Recipe, sixteen_bit: Literal["float16", "bfloat16"] | None) -> Recipe:
    """Returns the recipe with the defaults of an ONNX file: its own 16-bit type, oneshot with --calib, else
    magnitude, and the number of threads if the method looks at inputs.

    sixteen_bit: type of the model's linears, None if they are fp32. Raises UsageError for a setting that has no meaning
    here, and for a method that needs inputs if none are given.
    """
    for name, why in _REFUSED.items():
        if name in recipe.model_fields_set and getattr(recipe, name) != Recipe.model_fields[name].default:
            raise _refused(flag_of(name), why)
    if recipe.repair is Repair.DISTILL:
        raise _refused("--repair distill", _NO_TRAINING)
    changed: dict[str, Any] = {"repair": Repair.NONE}
    if "method" not in recipe.model_fields_set and recipe.mask is None:
        changed["method"] = Magnitude.name if recipe.calib is None else Recipe.model_fields["method"].default
    if "dtype" not in recipe.model_fields_set and sixteen_bit is not None:
        changed["dtype"] = sixteen_bit
    recipe = recipe.model_copy(update=changed)
    if recipe.mask is None:
        _check_method(recipe)
        if Requires.INPUTS in recipe.traits.needs and recipe.threads is None:
            import torch

            # ONNX Runtime rounds some reductions by the number of its threads, so recipe.yaml records it.
            recipe = recipe.model_copy(update={"threads": torch.get_num_threads()})
    return recipe


def _check_method(recipe: Recipe) -> None:
    if why := lacking(recipe.traits, LACKS):
        fit = ", ".join(name for name, kind in METHODS.items() if not lacking(kind, LACKS))
        raise _refused(f"--method {recipe.method}", f"{why[1]} It takes {fit}.")
    if Requires.INPUTS in recipe.traits.needs and recipe.calib is None:
        raise UsageError(
            f"--method {recipe.method} needs inputs",
            "It looks at the inputs of the linears of an ONNX file.",
            f"Give --calib inputs.npz, or --method {Magnitude.name}.",
        )
    if recipe.criterion is not None:
        _check_criterion(recipe.criterion, recipe)


def _check_criterion(criterion: Criterion, recipe: Recipe) -> None:
    fit = [one for one in recipe.traits.criteria if not one.needs & LACKS.keys()]
    if criterion in fit:
        return
    why = f"The method {recipe.method} ranks tiles in one way only."
    if criterion in recipe.traits.criteria:
        why_not = next(LACKS[need] for need in criterion.needs if need in LACKS)
        why = f"{why_not} Its tiles are ranked by {', '.join(fit)}."
    raise _refused(f"criterion {criterion}", why)


def _refused(flag: str, why: str) -> UsageError:
    return UsageError(f"{flag} does not go with an ONNX file", why, "Leave it out.")
