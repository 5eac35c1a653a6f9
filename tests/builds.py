"""Builds of a tiny model with every stage real; `settings` of conftest are what they are made of."""

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
    "lowering": "plugin",  # `auto` leaves linears as small as these dense
}


def build(settings: dict[str, Any], **options: bool) -> dict[str, Any]:
    return pipeline.build(
        Recipe.parse(settings), force=options.get("force", False), resume=options.get("resume", False)
    )
