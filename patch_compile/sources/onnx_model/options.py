"""Adapts the settings of a build to an ONNX file: sets its defaults and refuses settings that have no meaning for it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from masklearn import METHODS, Criterion, Magnitude, Repair, Requires, lacking
from patch_compile.errors import UsageError
from patch_compile.options import flag_of
from patch_compile.recipe import Recipe
from patch_compile.sources.onnx_model.feed import LACKS

__all__ = ["effective_recipe"]

_NO_TEXT = "An ONNX file is calibrated on inputs, not on text."
_NO_TRAINING = LACKS[Requires.TRAINING]
_NO_TOKENS = "An ONNX file is compared on its inputs, not on text."
_NO_BLOCKS = "Channels are permuted in the feed-forward parts of a checkpoint's blocks, which an ONNX file does not name."
_NO_SPEED = "Speed is predicted for decoders and encoders of checkpoints."
_REFUSED: Mapping[str, str] = {
    **dict.fromkeys(("windows", "length"), _NO_TEXT),
    **dict.fromkeys(
        ("repair_steps", "repair_minutes", "batch", "learning_rate", "prior", "steps"), _NO_TRAINING
    ),
    **dict.fromkeys(
        ("label_weight", "distill_weight", "checkpoint_every", "precision", "gradient_checkpointing"),
        _NO_TRAINING,
    ),
    **dict.fromkeys(("eval_text", "eval_windows", "eval_length", "prompt"), _NO_TOKENS),
    **dict.fromkeys(("speedup", "budget_ms", "batch_size", "prompt_tokens", "generated_tokens"), _NO_SPEED),
    "permute": _NO_BLOCKS,
    "logits": "An ONNX file keeps its outputs.",
    "opset": "An ONNX file keeps its opset (20 where it is older).",
}


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
            "It looks at what reaches the linears of an ONNX file.",
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
    raise _refused(f"--criterion {criterion}", why)


def _refused(flag: str, why: str) -> UsageError:
    return UsageError(f"{flag} does not go with an ONNX file", why, "Leave it out.")
