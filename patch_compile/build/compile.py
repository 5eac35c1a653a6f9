"""The command `compile`: checkpoint + MaskSet → hybrid ONNX, without an engine and without a proof."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from patch_compile.build.prepare import prepare
from patch_compile.build.stages import opened, run_stages
from patch_compile.build.summary import about_files, about_model
from patch_compile.errors import PatchCompileError
from patch_compile.out.layout import PLAN
from patch_compile.out.manifest import write_manifest
from patch_compile.out.plan import Plan
from patch_compile.passes import PassDump
from patch_compile.progress import Progress
from patch_compile.recipe import Recipe
from patch_compile.sources.kinds import Stage

__all__ = ["compile_model"]


def compile_model(
    recipe: Recipe, *, dump_passes: Path | None = None, force: bool = False, resume: bool = False
) -> dict[str, Any]:
    """Write OUT with the hybrid ONNX of the recipe's masks, and return a summary for the table.

    Weights are read and written one linear at a time. dump_passes: a folder for the graph after each pass, see
    `PassDump`. resume: take up what a run that was killed has left; an ONNX file that was whole is kept. Raises
    PatchCompileError for a model or masks that can't be compiled, and when OUT or a dump is there.
    """
    progress = Progress()
    _check_dump(dump_passes)
    job = prepare(recipe, progress, stages=[Stage.ONNX], force=force, resume=resume)
    with opened(job, progress, force=force, resume=resume) as workspace:
        try:
            dump = PassDump(dump_passes) if dump_passes else None
            masks = run_stages(job, workspace, progress, dump)
            plan = Plan.read(workspace.root / PLAN)
            summary = {
                "path": str(job.out),
                **about_model(job, masks, [row.as_json() for row in plan.linears]),
                "plan": plan.summary.as_json(),
                "onnx": about_files(job, workspace.root)["onnx"],
                "notes": progress.notes,
                "seconds": progress.seconds,
            }
            write_manifest(workspace, job.recipe.seed, summary, masks)
            workspace.publish()
        except BaseException:
            workspace.records.clear()  # one stage: there is nothing to go on from
            raise
    return summary


def _check_dump(folder: Path | None) -> None:
    """An earlier dump is not mixed with this one: its passes may be others."""
    if folder is not None and folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise PatchCompileError(
            f"{folder} is not empty", "The graph after each pass goes there.", "Choose another --dump-passes."
        )
