"""Builds OUT with the folder from which TensorRT Edge-LLM's own builder makes the engine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from patch_compile.errors import UsageError
from patch_compile.pipeline.build import build
from patch_compile.pipeline.edgellm import find_exporter
from patch_compile.pipeline.export import export_edgellm

if TYPE_CHECKING:
    from patch_compile.artifacts.report import Report
    from patch_compile.recipe import Recipe


def build_for_edgellm(
    recipe: Recipe, python: Path | None, *, force: bool = False, resume: bool = False
) -> Report:
    """Build, write OUT/edgellm, and return the report.

    python: the interpreter of the environment that has Edge-LLM's exporter, None for this interpreter. Raises UsageError
    for an ONNX file, and PatchCompileError without the exporter, both before any work.
    """
    if recipe.model.suffix == ".onnx":
        raise UsageError(
            "--for edgellm does not go with an ONNX file",
            "Edge-LLM's exporter starts from a checkpoint.",
            "Give MODEL_DIR.",
        )
    exporter = find_exporter(python, recipe.out or Path("OUT"))
    report = build(recipe, force=force, resume=resume)
    export_edgellm(Path(report.path).parent, exporter)  # the build has chosen OUT if none was given
    return report
