"""The command `compile`: turns a checkpoint and a MaskSet into hybrid ONNX, without an engine and without a proof."""

from __future__ import annotations

from pathlib import Path

from patch_compile.artifacts.command_results import CompiledAnswer
from patch_compile.artifacts.layout import PLAN
from patch_compile.artifacts.manifest import write_manifest
from patch_compile.artifacts.plan import Plan
from patch_compile.errors import PatchCompileError
from patch_compile.passes import PassDump
from patch_compile.pipeline.prepare import prepare
from patch_compile.pipeline.stages import opened, run_stages
from patch_compile.pipeline.summary import onnx_of, pruned_model
from patch_compile.progress import Progress
from patch_compile.recipe import Recipe
from patch_compile.sources.base import Stage


def compile_model(
    recipe: Recipe, *, dump_passes: Path | None = None, force: bool = False, resume: bool = False
) -> CompiledAnswer:
    """Write OUT with the hybrid ONNX of the recipe's masks, and return the result that is printed.

    Weights are read and written one linear at a time. dump_passes: a folder that gets the graph after each pass, see
    `PassDump`. resume: keep a complete ONNX file of a run that was killed. Raises PatchCompileError for a model or masks
    that cannot be compiled, and if OUT or the dump already exists.
    """
    progress = Progress()
    _check_dump(dump_passes)
    job = prepare(recipe, progress, stages=[Stage.ONNX], force=force, resume=resume)
    with opened(job, progress, force=force, resume=resume) as workspace:
        try:
            dump = PassDump(dump_passes) if dump_passes else None
            masks = run_stages(job, workspace, progress, dump)
            plan = Plan.read(workspace.root / PLAN)
            answer = CompiledAnswer(
                path=str(job.out),
                **dict(pruned_model(job, masks, plan.linears)),
                plan=plan.summary,
                onnx=onnx_of(job, workspace.root),
                notes=tuple(progress.notes),
                seconds=progress.seconds,
            )
            write_manifest(workspace.root, workspace.records, job.recipe.seed, answer.model, masks, None)
            workspace.publish()
        except BaseException:
            workspace.forget()  # a failed run of the only stage leaves nothing to resume
            raise
    return answer


def _check_dump(folder: Path | None) -> None:
    """Refuse a folder with files: an earlier dump may be of other passes, and the two would be mixed."""
    if folder is not None and folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise PatchCompileError(
            f"{folder} is not empty", "The graph after each pass goes there.", "Choose another --dump-passes."
        )
