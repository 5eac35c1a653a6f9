"""Input of every step of learning: the model, its covered linears, the recipe, the text, and the asked budget."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any

from masklearn.base.device import usable_device
from masklearn.base.errors import UsageError
from masklearn.base.progress import OnStep, silent, unsaid
from masklearn.choice.goal import BYTES, OWN_BYTES, Goal, check_bytes, check_reachable
from masklearn.choice.menu import allowed_kinds, allowed_types, spell_kinds, undecided
from masklearn.choice.solve import Chooser, by_goal
from masklearn.masks.kinds.base import TileKind
from masklearn.model.checkpoint import Checkpoint
from masklearn.model.coverage import Coverage
from masklearn.quant.table import FLOAT16, WeightType
from masklearn.recipe import LearnRecipe
from masklearn.text.calibrate import TokenPool, few_tokens, token_pool, wanted_windows


def chooser_of_recipe(
    recipe: LearnRecipe,
    linears: Mapping[str, tuple[int, int]],
    note: Callable[[str], object],
    given: Mapping[str, WeightType] = MappingProxyType({}),
) -> Chooser:
    """Returns the chooser for the recipe's ratio or bytes.

    linears: (N, K) by name; given: types of linears of a quantised checkpoint. Raises MaskLearnError at once, before any
    work, for a pattern that fits no linear, for kinds that do not fit a linear, for a ratio or bytes that the kinds do not
    reach, for bytes with a method that trains, and for open types without bytes.
    """
    types = allowed_types(recipe.weights, linears, given)
    kinds = allowed_kinds(recipe.kinds, linears, recipe.tile, types)
    chooses = any(len(own) > 1 for own in types.values())
    if chooses:
        recipe.check_choice()
    if recipe.bytes_per_weight is not None:
        if recipe.traits.trains():
            raise UsageError(
                f"`bytes_per_weight` does not go with `method` {recipe.method}",
                "Its training steers towards a ratio.",
                "Give `ratio`, or another method.",
            )
        unit = OWN_BYTES if chooses else BYTES
        check_bytes(recipe.bytes_per_weight, unit, linears, kinds, types)
        weights = sum(math.prod(shape) for shape in linears.values())
        return by_goal(Goal.of_bytes(recipe.bytes_per_weight, weights, unit), types)
    if chooses:
        raise undecided(recipe.weights)
    goal = Goal.of_ratio(recipe.ratio, recipe.per_layer)
    check_reachable(goal, linears, kinds)
    if left_dense := goal.left_dense(list(linears)):
        note(left_dense)
    return by_goal(goal, types)


def is_decided(
    recipe: LearnRecipe,
    linears: Mapping[str, tuple[int, int]],
    given: Mapping[str, WeightType] = MappingProxyType({}),
) -> bool:
    """True if the ratio determines every tile's kind: all are dense, or all have the only allowed kind."""
    if recipe.bytes_per_weight is not None or isinstance(recipe.ratio, str):
        return False
    types = allowed_types(recipe.weights, linears, given)
    kinds = {*allowed_kinds(recipe.kinds, linears, recipe.tile, types).values()}
    most = max((kind.zeros for own in kinds for kind in own), default=0.0)
    return recipe.ratio == 0.0 or (recipe.ratio == most and len(kinds) == 1 and len(next(iter(kinds))) == 1)


@dataclass(frozen=True, eq=False)
class Task:
    """Input of every step of learning.

    checkpoint: the dense model; coverage: its covered linears; recipe: the settings; scratch: folder for data that does
    not fit in memory and for the state of training; progress: see `OnStep`; note: called with lines for the user; chooses:
    chooses tiles by their scores, None for the recipe's ratio over all linears; kinds: kinds of the tiles of each linear
    where the weights get their types later, None if these follow from the recipe.
    """

    checkpoint: Checkpoint
    coverage: Coverage
    recipe: LearnRecipe
    scratch: Path
    progress: OnStep = silent
    note: Callable[[str], object] = unsaid
    chooses: Chooser | None = None
    kinds: Mapping[str, tuple[TileKind, ...]] | None = None

    @property
    def choose(self) -> Chooser:
        """The function that chooses tiles by their scores."""
        return self.chooses or by_goal(Goal.of_ratio(self.recipe.ratio, self.recipe.per_layer), {})

    @property
    def activations(self) -> Path:
        """Folder for hidden states that do not fit in memory."""
        return self.scratch / "activations"

    @cached_property
    def text(self) -> TokenPool:
        """Windows of the recipe's text. The first access reads it, or lets the model write it."""
        weights = sum(math.prod(shape) for shape in self.coverage.linears.values())
        training = wanted_windows(self.recipe, weights)
        # A text that the model writes again may differ, on a GPU for example.
        keep = self.scratch / "checkpoint-text.safetensors"
        widest = self.coverage.widest
        pool = token_pool(
            self.checkpoint, self.recipe, self.progress, training=training, keep=keep, widest=widest
        )
        if self.recipe.windows is None and (line := few_tokens(self.recipe, pool.count, widest)):
            self.note(line)
        return pool

    def in_16_bits(self) -> "Task":
        """Returns a copy whose weights are not rounded to integers. It keeps text that was read, and the kinds of tiles
        that go with the types that the weights get later."""
        recipe, linears = self.recipe, self.coverage.linears
        types = allowed_types(recipe.weights, linears, self.checkpoint.grids.types)
        changed, kinds = {"weights": FLOAT16.name}, None
        if any(one.input_bits <= 8 for own in types.values() for one in own):
            kinds = allowed_kinds(recipe.kinds, linears, recipe.tile, types)
            changed["kinds"] = spell_kinds(kinds)
        return self.changed(recipe=recipe.model_copy(update=changed), kinds=kinds)

    @property
    def bf16(self) -> bool:
        """True if linears compute in bf16 while blocks are streamed and models trained; see `computes_in_bf16`."""
        from masklearn.model.modules import computes_in_bf16

        return computes_in_bf16(usable_device(self.recipe.device))

    def of(self, checkpoint: Checkpoint) -> "Task":
        """Returns a copy with another checkpoint, e.g. the same with new weights. It keeps text that was read."""
        return self.changed(checkpoint=checkpoint)

    def changed(self, **fields: Any) -> "Task":
        """Returns a copy with other fields, which keeps text that was read. Another recipe must ask for the same text."""
        copy = replace(self, **fields)
        if "text" in self.__dict__:
            copy.__dict__["text"] = self.text
        return copy
