"""recipe.yaml as it is written: names and values, which `Recipe.parse` validates."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from masklearn.base.safe_read import require_file
from patch_compile.artifacts.layout import RECIPE
from patch_compile.errors import reading

_MOST_BYTES = 1 << 20  # the parser takes minutes for larger files


def read_recipe(path: Path) -> dict[str, Any]:
    """Returns the settings of a recipe.yaml. Raises PatchCompileError for a file that can't be read or holds no settings."""
    with reading(f"The recipe {path}", f"Correct the file, or give the {RECIPE} of an earlier build."):
        if (size := require_file(path).st_size) > _MOST_BYTES:
            raise ValueError(f"It has {size} bytes, and at most {_MOST_BYTES} are read")
        settings = yaml.safe_load(path.read_text(encoding="utf-8"))
        if not isinstance(settings, dict) or not all(isinstance(name, str) for name in settings):
            raise ValueError("It holds no settings: a recipe is a mapping of setting to value")
        return settings
