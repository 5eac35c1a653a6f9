"""Builds tiny models with every stage real, from the fixture `settings` of conftest."""

from typing import Any

from patch_compile.build.build import build as build_recipe
from patch_compile.recipe import Recipe

TINY: dict[str, Any] = {
    "method": "wanda",
    "tile": (64, 64),
    "windows": 2,
    "length": 24,
    "eval_windows": 2,
    "eval_length": 24,
    "prompt": "the cat sat",
    "backend": "onnx",
    "lowering": "plugin",  # `auto` would leave such small linears dense
}


def build(settings: dict[str, Any], **options: bool) -> dict[str, Any]:
    return build_recipe(
        Recipe.parse(settings), force=options.get("force", False), resume=options.get("resume", False)
    )
