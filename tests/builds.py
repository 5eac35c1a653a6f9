"""Builds tiny models with every stage real, from the fixture `settings` of conftest."""

from typing import Any

from patch_compile.build import stages as pipeline
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
    return pipeline.build(
        Recipe.parse(settings), force=options.get("force", False), resume=options.get("resume", False)
    )
