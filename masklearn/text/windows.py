"""Computes the amount of text that a training run needs, and warns of too little text."""

import math

from masklearn.base.device import usable_device
from masklearn.base.processes import process_count
from masklearn.recipe import LearnRecipe

__all__ = ["too_many_passes", "wanted_windows"]

_LEAST = 4096  # windows: 2M tokens in windows of 512, more than a CPU trains on in five hours
_MOST = 2**26  # tokens: their ids take half a GB
# Estimated speed of a GPU (none has been timed), and operations per weight and token: 2 in the teacher, 6 in the student.
_FLOPS, _OPERATIONS = 150e12, 8
# Up to four passes over a text are nearly as good as new text of that length (Muennighoff et al., arXiv 2305.16264).
_PASSES = 4


def wanted_windows(recipe: LearnRecipe, weights: int) -> int:
    """Returns the number of windows that training may use besides the calibration windows.

    It grows with the training budget, up to 64M tokens. weights: number of weights of the covered linears.
    """
    if not recipe.trains:
        return 0
    wanted = [_LEAST, recipe.steps * recipe.batch if recipe.traits.trains() else 0]
    if recipe.repairs:
        wanted.append(_of_repair(recipe, weights))
    return min(max(wanted) * process_count(), max(_LEAST, _MOST // recipe.length))


def _of_repair(recipe: LearnRecipe, weights: int) -> int:
    if recipe.repair_steps is not None:
        return recipe.repair_steps * recipe.batch
    if recipe.repair_minutes is None or usable_device(recipe.device).type != "cuda":
        return 0  # `_LEAST` is enough for the default budget and for a CPU
    tokens = 60.0 * recipe.repair_minutes * _FLOPS / (_OPERATIONS * max(1, weights))
    return math.ceil(min(tokens, _MOST) / recipe.length)


def too_many_passes(what: str, seen: int, windows: int, length: int) -> str | None:
    """Returns a warning for a run that trains on `seen` windows of a text with `windows`, or None if that is enough text.

    what: name of the run; length: tokens per window.
    """
    if seen <= _PASSES * windows:
        return None
    return (
        f"{what} goes {seen / windows:.0f} times over its {windows * length:,} tokens of text; beyond {_PASSES} times that "
        "brings less and less: give a longer `calib`"
    )
