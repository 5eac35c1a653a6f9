"""Readers of what users spell: every setting of a build that is text, and what its patterns choose."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from masklearn.masks.budget import Budget
from masklearn.masks.name_globs import check_patterns
from patch_compile.engine.profiles import parse_profile
from patch_compile.hardware.cards import parse_targets
from patch_compile.onnx_io.graph_inputs import GraphInput
from patch_compile.planning.lowering_patterns import asked_lowerings
from patch_compile.recipe import Recipe
from tests.attacks.fuzz.mutations import change_words
from tests.attacks.fuzz.reader import Reader

_NAMES = [f"model.layers.{i}.{part}" for i in range(2) for part in ("mlp.up_proj", "self_attn.q_proj")]
_INPUTS = (
    GraphInput("ids", ("batch", "sequence")),
    GraphInput("past.0", ("batch", 3, "past")),
    GraphInput("mask", ("batch", "past + sequence")),
)
_PATTERNS = ("include", "exclude")


def _setting(data: bytes, folder: Path) -> None:
    """Check `SETTING TEXT`, and take its value as a build does. Regular expressions are compiled, and not run: their time
    has no bound."""
    name, _, text = data.decode(errors="replace").partition(" ")
    settings: dict[str, Any] = {"model": "m", "ratio": 0.4} | {name: (text,) if name in _PATTERNS else text}
    recipe = Recipe.parse(settings)
    assert Recipe.parse(recipe.model_dump()) == recipe
    if recipe.target is not None:
        parse_targets(recipe.target)
    shapes = (recipe.min_shapes, recipe.opt_shapes, recipe.max_shapes)
    if any(shapes):
        parse_profile(_INPUTS, min_shapes=shapes[0], opt_shapes=shapes[1], max_shapes=shapes[2])
    if "re:" in text:
        return
    for option in _PATTERNS:
        check_patterns(getattr(recipe, option), _NAMES, f"--{option}")
    asked_lowerings(recipe.lowering, _NAMES)
    if recipe.ratio is not None:
        budget = Budget.of(recipe.ratio)
        assert all(0 <= ratio <= 0.5 for ratio in budget.evenly(dict.fromkeys(_NAMES, 64)).values())


READERS = (Reader("setting", _setting, change_words),)
