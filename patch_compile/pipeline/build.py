"""The command `build`: turns a model into a complete OUT folder, also into one for TensorRT Edge-LLM's own builder."""

from __future__ import annotations

from pathlib import Path

from masklearn.base.processes import process_count
from patch_compile.artifacts.layout import MASKS
from patch_compile.artifacts.manifest import write_manifest
from patch_compile.artifacts.report import Report, read_report
from patch_compile.errors import PatchCompileError, UsageError
from patch_compile.pipeline.edgellm import find_exporter
from patch_compile.pipeline.export import export_edgellm
from patch_compile.pipeline.prepare import prepare
from patch_compile.pipeline.stages import opened, run_stages
from patch_compile.progress import Progress
from patch_compile.recipe import Recipe


def build(recipe: Recipe, *, force: bool = False, resume: bool = False) -> Report:
    """Run the stages that have no valid result yet, and return the report. `resume` continues an interrupted build.

    Raises PatchCompileError if the model cannot be built, and AccuracyError if the hybrid model does not compute the
    same as the pruned model.
    """
    from patch_compile.report.page.write import renew_page

    if process_count() > 1:
        raise PatchCompileError(
            "A build runs in one process",
            "Only learning can run in several processes.",
            f"Launch `patch-compile learn`, then `patch-compile build --mask OUT/{MASKS}`.",
        )
    progress = Progress()
    job = prepare(recipe, progress, force=force, resume=resume)
    with opened(job, progress, force=force, resume=resume) as workspace:
        masks = run_stages(job, workspace, progress)
        report = read_report(workspace.root)
        assert report is not None  # the last stage has written it
        evaluated = report.text.eval if report.text else None
        write_manifest(workspace.root, workspace.records, job.recipe.seed, report.model, masks, evaluated)
        renew_page(workspace.root, place=workspace.out)
        workspace.publish()
    return report


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
