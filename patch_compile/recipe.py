"""The settings of a build: one frozen model that mirrors the flags one to one, checked once at the edge."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field, ValidationError

from masklearn.recipe import LearnRecipe, LearnSettings, Ratio
from patch_compile.errors import PatchCompileError

__all__ = ["Recipe"]


class Recipe(LearnSettings):
    """Every setting of `patch-compile build`; `None` means that the default is found when the build starts."""

    model: Path
    out: Path | None = None
    ratio: Ratio | None = None
    mask: Path | None = None
    dtype: Literal["float16", "bfloat16"] = "float16"
    opset: int = Field(23, ge=20, le=23)
    fuse: bool = True
    backend: Literal["tensorrt", "tensorrt-rtx", "onnx"] | None = None
    target: str | None = None
    min_shapes: str | None = None
    opt_shapes: str | None = None
    max_shapes: str | None = None
    optimization_level: int | None = Field(None, ge=0, le=5)
    eval_text: str | None = None
    eval_windows: int = Field(8, ge=1)
    eval_length: int = Field(1024, ge=2)
    prompt: str = "The capital of France is"

    @classmethod
    def parse(cls, settings: dict[str, Any]) -> Recipe:
        """Check settings from flags or a file. Raises PatchCompileError naming the setting and what it takes."""
        try:
            recipe = cls(**settings)
        except ValidationError as error:
            first = error.errors()[0]
            name = "-".join(str(part) for part in first["loc"][:1]) or "recipe"
            raise PatchCompileError(
                f"the setting {name!r} is not valid", first["msg"].removeprefix("Value error, ")
            ) from None
        recipe._check_ratio()
        return recipe

    @classmethod
    def load(cls, path: Path) -> dict[str, Any]:
        """Settings of a recipe.yaml, for flags to override before `parse`; paths are relative to its folder."""
        try:
            settings = yaml.safe_load(path.read_text())
        except OSError as error:
            raise PatchCompileError(f"cannot read the recipe {path}", error.strerror or str(error)) from None
        except yaml.YAMLError as error:
            raise PatchCompileError(f"{path} is not YAML", str(error).replace("\n", " ")) from None
        if not isinstance(settings, dict):
            raise PatchCompileError(f"{path} holds no settings", "a recipe is a mapping of setting to value")
        return settings

    def learning(self) -> LearnRecipe:
        """The settings of mask learning among these."""
        return LearnRecipe.checked(**self.model_dump(include=set(LearnRecipe.model_fields)))

    def save(self, path: Path) -> None:
        """Write the effective settings; `build --recipe` of this file reproduces the run."""
        from masklearn.text import open_text

        settings = self.model_dump(mode="json", exclude_none=True, exclude={"out"})
        settings |= {k: str(Path(settings[k]).resolve()) for k in ("model", "mask") if settings.get(k)}
        settings |= {k: open_text(settings[k]).spec for k in ("calib", "eval_text") if settings.get(k)}
        if Path(self.prior).is_file():
            settings["prior"] = str(Path(self.prior).resolve())
        path.write_text(yaml.safe_dump(settings, sort_keys=False))

    def _check_ratio(self) -> None:
        if self.ratio is None and self.mask is None:
            raise PatchCompileError(
                "no ratio given",
                "a build needs to know how much to prune",
                "give --ratio 0.4, or --mask FILE",
            )
        if self.ratio is not None and self.mask is not None:
            raise PatchCompileError(
                "both a ratio and a mask given",
                "the mask has a ratio of its own",
                "drop one of --ratio, --mask",
            )
