"""Turns the ratio or bytes of a recipe into a budget, which chooses kinds of tiles, and weight types if these are open."""

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType

from masklearn.base.errors import UsageError
from masklearn.masks.budget import Budget, check_reachable, rounded_up
from masklearn.masks.kinds.allowed import allowed_kinds
from masklearn.masks.kinds.base import TileKind
from masklearn.masks.select import Choose, by_budget
from masklearn.masks.select_types import TypesForBytes
from masklearn.masks.weight_types import allowed_types, undecided
from masklearn.quant.table import WeightType
from masklearn.recipe import LearnRecipe

__all__ = ["by_ratio", "is_decided"]


def by_ratio(
    recipe: LearnRecipe,
    linears: Mapping[str, tuple[int, int]],
    note: Callable[[str], object],
    given: Mapping[str, WeightType] = MappingProxyType({}),
) -> Choose:
    """Returns a function that chooses kinds of tiles by the recipe's ratio or bytes, and weight types if these are open.

    linears: (N, K) by name; given: types of linears of a quantised checkpoint. Raises MaskLearnError at once, before any
    work, for a pattern that fits no linear, for kinds that do not fit a linear, for a ratio or bytes that the kinds do not
    reach, and for open types without bytes.
    """
    kinds = allowed_kinds(recipe.kinds, linears, recipe.tile)
    types = allowed_types(recipe.weights, linears, given)
    if any(len(own) > 1 for own in types.values()):
        recipe.check_choice()
        if recipe.bytes_per_weight is None:
            raise undecided(recipe.weights)
        by_bytes = TypesForBytes(recipe.bytes_per_weight, types, linears)
        by_bytes.check(kinds)
        return by_bytes
    if recipe.bytes_per_weight is not None:
        return by_budget(_bytes_budget(recipe, recipe.bytes_per_weight, linears, kinds))
    budget = Budget.of(recipe.ratio, recipe.per_layer)
    check_reachable(budget, linears, kinds)
    if left_dense := budget.left_dense(list(linears)):
        note(left_dense)
    return by_budget(budget)


def is_decided(recipe: LearnRecipe, linears: Mapping[str, tuple[int, int]]) -> bool:
    """True if the ratio alone determines every tile's kind: all are dense, or all have the one kind that is allowed."""
    if recipe.bytes_per_weight is not None or isinstance(recipe.ratio, str):
        return False
    kinds = {*allowed_kinds(recipe.kinds, linears, recipe.tile).values()}
    most = max((kind.zeros for own in kinds for kind in own), default=0.0)
    return recipe.ratio == 0.0 or (recipe.ratio == most and len(kinds) == 1 and len(next(iter(kinds))) == 1)


def _bytes_budget(
    recipe: LearnRecipe,
    per_weight: float,
    linears: Mapping[str, tuple[int, int]],
    kinds: Mapping[str, tuple[TileKind, ...]],
) -> Budget:
    """Returns the budget of the recipe's bytes. Raises UsageError if the method or the kinds do not reach it."""
    if recipe.traits.trains():
        raise UsageError(
            f"`bytes_per_weight` does not go with `method` {recipe.method}",
            "Its training steers towards a ratio.",
            "Give `ratio`, or another method.",
        )
    weights = {name: math.prod(shape) for name, shape in linears.items()}
    total = sum(weights.values())
    least = sum(weights[name] * min(kind.bytes_per_weight for kind in kinds[name]) for name in weights) / max(
        total, 1
    )
    if per_weight < least:
        raise UsageError(
            f"{per_weight:g} bytes per weight cannot be reached with `kinds` {recipe.kinds}",
            f"With every tile of the smallest kind it is {rounded_up(least)}.",
            "Give more bytes, or smaller kinds.",
        )
    return Budget.of_bytes(per_weight, total)
