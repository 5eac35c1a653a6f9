"""How much text a training run wants, and what is said of one that has too little."""

import math

from masklearn.device import usable_device
from masklearn.processes import process_count
from masklearn.recipe import LearnRecipe

__all__ = ["too_many_passes", "wanted_windows"]

_LEAST = 4096  # windows: 2M tokens of 512, more than a CPU trains on in five hours
_MOST = 2**26  # tokens, half a GB of ids
# What a GPU reaches, for the text that its minutes may need: an estimate, no GPU has been timed. A weight and a token
# take 2 operations in the teacher and 6 in the student.
_FLOPS, _OPERATIONS = 150e12, 8
# Up to four passes over a text are nearly as good as as much new text (Muennighoff et al., arXiv 2305.16264).
_PASSES = 4


def wanted_windows(recipe: LearnRecipe, weights: int) -> int:
    """Windows that training may see, beyond those that calibrate: as many as its budget reaches, 64M tokens at most.

    weights: of the covered linears.
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
        return 0  # the default is less, and so is what a CPU reaches
    tokens = 60.0 * recipe.repair_minutes * _FLOPS / (_OPERATIONS * max(1, weights))
    return math.ceil(min(tokens, _MOST) / recipe.length)


def too_many_passes(what: str, seen: int, windows: int, length: int) -> str | None:
    """What to say of a run that sees `seen` windows of a text that has `windows`; None where there is nothing to say."""
    if seen <= _PASSES * windows:
        return None
    return (
        f"{what} goes {seen / windows:.0f} times over its {windows * length:,} tokens of text; beyond {_PASSES} times that "
        "brings less and less: give a longer --calib"
    )
