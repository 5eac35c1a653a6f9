"""The command `learn`: learns masks and the pruned model, in one process or several."""

from __future__ import annotations

from rich.console import Console

from masklearn import Baseline, parse_baselines
from masklearn.base.processes import is_main_process
from masklearn.masks.maskset import MaskSet
from patch_compile.artifacts.command_results import (
    LearnedAnswer,
    LearnedBaselines,
    MaskedLinear,
)
from patch_compile.artifacts.manifest import write_manifest
from patch_compile.artifacts.workspace import Workspace
from patch_compile.pipeline.distributed import join
from patch_compile.pipeline.prepare import Job, prepare
from patch_compile.pipeline.resumed import learning_folder
from patch_compile.pipeline.stages import keys_of, opened, run_stages
from patch_compile.pipeline.summary import masked_model
from patch_compile.progress import Progress
from patch_compile.recipe import Recipe
from patch_compile.report.learned import mosaic_line
from patch_compile.report.prediction import choice_line
from patch_compile.sources.base import Stage, TokenSource
from patch_compile.sources.open import needed


def learn(
    recipe: Recipe, baselines: str | None = None, *, force: bool = False, resume: bool = False
) -> LearnedAnswer | None:
    """Learn masks without compiling: write masks and pruned model to OUT, and return the result that is printed.

    If several processes run this (`accelerate launch`, torchrun), the first process writes and returns the result. The
    others help it to learn and return None.

    baselines: names of simpler ways to prune to compare with, see `masklearn.parse_baselines`; None to compare only with the
    dense model, and only if the recipe names text to evaluate on and the model predicts tokens.
    """
    if not is_main_process():
        _help(recipe)
        return None
    progress = Progress()
    names = () if baselines is None else parse_baselines(baselines)
    job = prepare(recipe, progress, stages=[Stage.MASKS], force=force, resume=resume)
    if baselines is None and recipe.eval_text is not None and isinstance(job.source, TokenSource):
        names = (Baseline.DENSE,)
    compared = needed(job.source, TokenSource, "--baselines") if names else None  # type: ignore[type-abstract]
    if compared:
        compared.check_evaluation()
    with opened(job, progress, force=force, resume=resume) as workspace:
        masks = run_stages(job, workspace, progress)
        for line in (mosaic_line(masks), choice_line(masks.record.choice)):
            if line:
                progress.note(line)
        choice = masks.record.choice
        rows = tuple(MaskedLinear.of(name, mask) for name, mask in masks.items())
        answer = LearnedAnswer(
            path=str(job.out),
            **dict(masked_model(job, masks, ())) | {"linears": rows},
            bytes_per_weight=choice.reached if choice and recipe.bytes_per_weight is not None else None,
            baselines=_compared(compared, job, workspace, masks, names, progress) if compared else None,
            notes=tuple(progress.notes),
            seconds=progress.seconds,
        )
        write_manifest(workspace.root, workspace.records, job.recipe.seed, answer.model, masks, None)
        workspace.publish()
    return answer


def _compared(
    source: TokenSource,
    job: Job,
    workspace: Workspace,
    masks: MaskSet,
    names: tuple[Baseline, ...],
    progress: Progress,
) -> LearnedBaselines:
    """Compare the masks with simpler ways to prune, on the evaluation text."""
    from masklearn import compare_with_baselines

    windows, text = source.evaluation(progress)
    with progress.stage("baselines") as update:
        comparison = compare_with_baselines(
            source.model,
            job.recipe.learning(masks),
            workspace.root / source.format.pruned_file,
            masks,
            progress.seconds.get("masks", 0.0),
            names,
            windows,
            workspace.scratch / "baselines",
            update,
            progress.note,
        )
    job.files.check()
    return LearnedBaselines(**dict(comparison), text=text)


def _help(recipe: Recipe) -> None:
    """Learn together with the first process, in its scratch folder, and write nothing else."""
    quiet = Progress(Console(quiet=True))
    job = prepare(recipe, quiet, stages=[Stage.MASKS], force=True, resume=True)

    def train() -> None:
        if job.recipe.trains:  # only training runs in several processes
            folder = learning_folder(Workspace.scratch_of(job.out), keys_of(job)[Stage.MASKS])
            job.source.learn(job.recipe, folder, quiet, job.chooser)

    join(job.out, train)
