"""Whether a build is of a model that can be asked to continue text."""

from __future__ import annotations

from masklearn.checkpoint.architectures import architecture_of
from masklearn.checkpoint.checkpoint import Checkpoint
from patch_compile.errors import PatchCompileError
from patch_compile.out.folder import OutFolder
from patch_compile.recipe import Recipe

__all__ = ["check_continues_text"]


def check_continues_text(out: OutFolder) -> None:
    """Raise PatchCompileError for the build of an encoder, or of an ONNX file, which has no tokenizer."""
    recipe = Recipe.of_build(out.path)
    if recipe.is_onnx:
        raise PatchCompileError(
            f"{out.path} can't be asked to continue text",
            f"it was built from {recipe.model.name}, an ONNX file, which comes without a tokenizer",
            "leave out --tasks and --prompt, or build from the model's directory",
        )
    if architecture_of(Checkpoint.open(recipe.model)).encoder:
        raise PatchCompileError(
            f"{out.path} can't be asked to continue text",
            f"{recipe.model.name} is an encoder: it reads text and predicts none",
            "leave out --tasks and --prompt",
        )
