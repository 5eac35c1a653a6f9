"""recipe.yaml as it is written: names and values, which `Recipe.parse` validates."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from masklearn.base.safe_read import require_file
from patch_compile.artifacts.layout import RECIPE
from patch_compile.errors import PatchCompileError

_MOST_BYTES = 1 << 20  # the parser takes minutes for larger files


def read_recipe(path: Path) -> dict[str, Any]:
    """Returns the settings of a recipe.yaml. Raises PatchCompileError for a file that can't be read or holds no settings."""
    try:
        if (size := require_file(path).st_size) > _MOST_BYTES:
            raise ValueError(f"It has {size} bytes, and at most {_MOST_BYTES} are read")
        settings = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise PatchCompileError(
            f"The recipe {path} cannot be read",
            error.strerror or str(error),
            f"Give the {RECIPE} of an earlier build.",
        ) from None
    except RecursionError:
        raise PatchCompileError(
            f"{path} is not YAML", "It is nested too deeply.", "Correct the file."
        ) from None
    except OverflowError:
        raise PatchCompileError(
            f"{path} is not YAML", "It has a character that Unicode does not have.", "Correct the file."
        ) from None
    except (yaml.YAMLError, ValueError) as error:  # a ValueError: not UTF-8, or a date that does not exist
        why = str(error).replace("\n", " ").rstrip(".")
        raise PatchCompileError(f"{path} is not YAML", f"{why}.", "Correct the file.") from None
    if not isinstance(settings, dict) or not all(isinstance(name, str) for name in settings):
        raise PatchCompileError(
            f"{path} holds no settings",
            "A recipe is a mapping of setting to value.",
            f"Give the {RECIPE} of an earlier build.",
        )
    return settings
