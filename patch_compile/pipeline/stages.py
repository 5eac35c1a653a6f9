"""The stages of a build, in order: masks with the pruned model, ONNX, engine, proof.

The key of each stage tells if its result of an earlier run is still valid. `build` runs all stages, `learn` only the
first and `compile` only the second.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from masklearn.masks.maskset import MaskSet
from patch_compile.artifacts.engine import EngineReport
from patch_compile.artifacts.layout import (
    ENGINE,
    ENGINE_FOLDER,
    ENGINE_REPORT,
    MASKS,
    MODEL,
    ONNX,
    ONNX_FOLDER,
    PLAN,
    RECIPE,
    REPORT,
)
from patch_compile.artifacts.plan import Plan
from patch_compile.artifacts.proof import TokensProof
from patch_compile.artifacts.report import DecoderReport, OutputsReport
from patch_compile.artifacts.stage_files import remove
from patch_compile.artifacts.workspace import Workspace, key_of
from patch_compile.debug import LINEARS, tell
from patch_compile.errors import PatchCompileError
from patch_compile.pipeline.distributed import rank0
from patch_compile.pipeline.prepare import Job
from patch_compile.pipeline.resumed import learning_folder, masks_key
from patch_compile.planning.planner import plan_json
from patch_compile.progress import Progress
from patch_compile.report.prediction import decision_line, mask_line, waste_line
from patch_compile.sources.base import Stage
from patch_compile.sources.pruning import Pruning, prunes_nothing

if TYPE_CHECKING:
    from patch_compile.passes import PassDump


def run_stages(job: Job, workspace: Workspace, progress: Progress, dump: PassDump | None = None) -> MaskSet:
    """Run the stages of a job that have no valid result yet, and return the masks.

    Removes results of other stages, which an interrupted run of another command or for another backend left: they may not
    belong to this job's results, and would be published with them.

    dump: receives the graph after each pass; None for no dump.
    """
    job.recipe.save(workspace.root / RECIPE, job.source.format.texts)
    run = _Run(job, workspace, progress, keys_of(job, dump), dump)
    for stage, (names, write) in run.stages().items():
        if stage in job.stages:
            workspace.run(stage.value, run.keys[stage], names, run.of_whole_files(write))
        else:
            workspace.drop(stage.value, names)
    if workspace.reused:
        progress.note(f"unchanged, not run again: {', '.join(workspace.reused)}")
    return run.masks


@dataclass(frozen=True)
class _Run:
    job: Job
    workspace: Workspace
    progress: Progress
    keys: dict[Stage, str]
    dump: PassDump | None

    def stages(self) -> dict[Stage, tuple[list[str], Callable[[Path], None]]]:
        """Returns the files and folders that each stage writes, and the function that writes them."""
        return {
            Stage.MASKS: ([MASKS, MODEL], self.write_masks),
            Stage.ONNX: ([ONNX_FOLDER, PLAN], self.write_onnx),
            Stage.ENGINE: ([ENGINE_FOLDER], self.write_engine),
            Stage.PROOF: ([REPORT], self.write_report),
        }

    def of_whole_files(self, write: Callable[[Path], None]) -> Callable[[Path], None]:
        """Returns a stage that fails if a file that it read was changed meanwhile, so that its result is not recorded."""

        def write_and_check(root: Path) -> None:
            write(root)
            try:
                self.job.files.check()
            except PatchCompileError:
                remove(self.workspace.scratch)  # what a resumed run would continue from
                raise

        return write_and_check

    @cached_property
    def masks(self) -> MaskSet:
        """The masks of the first stage, or the given masks if the first stage is not run."""
        if Stage.MASKS in self.job.stages:
            return MaskSet.load(self.workspace.root / MASKS)
        return self.job.source.given.masks

    @property
    def pruned(self) -> Path:
        """The pruned model that the first stage writes."""
        return self.workspace.root / self.job.source.format.pruned_file

    def write_masks(self, root: Path) -> None:
        """Write masks and pruned model. Masks that belong to new weights record the sha256 of the pruned model."""
        source = self.job.source
        given = self.job.recipe.mask is not None
        pruning = source.take_given(self.workspace.scratch, self.progress) if given else self._learned()
        with self.progress.stage(source.format.pruned_words) as update:
            pruning.write(self.pruned, update)
        if pruning.masks.record.weights is not None or pruning.has_new_weights:
            pruning.masks.record.weights = source.format.fingerprint_of(self.pruned)
        pruning.masks.save(root / MASKS)
        tell(LINEARS, (mask_line(name, mask) for name, mask in pruning.masks.items()))

    def _learned(self) -> Pruning:
        scratch = self.workspace.scratch
        with rank0(scratch):
            folder = learning_folder(scratch, self.keys[Stage.MASKS])
            return self.job.source.learn(self.job.recipe, folder, self.progress, self.job.chooser)

    def write_onnx(self, root: Path) -> None:
        source, task, costs, masks = self.job.source, self.job.task, self.job.costs, self.masks
        weights = self.pruned if Stage.MASKS in self.job.stages else source.given.weights
        plan = task.plan(masks, costs, task.weight_types(masks))
        compiled = source.write_hybrid(weights, masks, plan, root / ONNX, self.progress.stage, self.dump)
        if line := waste_line(list(compiled.values())):
            self.progress.note(line)
        source.write_beside(root / ONNX)
        tell(LINEARS, map(decision_line, compiled.values()))
        outline = task.outline and task.outline.compiled(compiled.values())
        written = plan_json(compiled, outline, costs)
        written.model_copy(update={"choice": masks.record.choice}).write(root / PLAN)

    def write_engine(self, root: Path) -> None:
        from patch_compile.engine.build import build_engine
        from patch_compile.engine.expectation import expectation_from_onnx
        from patch_compile.engine.profiles import profiles_from_onnx
        from patch_compile.pipeline.summary import headers_of

        job, r, onnx = self.job, self.job.recipe, root / ONNX
        expected = expectation_from_onnx(onnx)
        profiles = profiles_from_onnx(onnx, r.min_shapes, r.opt_shapes, r.max_shapes)
        with self.progress.stage("engine") as update:
            (root / ENGINE_FOLDER).mkdir(parents=True, exist_ok=True)
            report = build_engine(
                onnx,
                root / ENGINE,
                backend=job.backend,
                targets=job.targets,
                profiles=profiles,
                plugin=job.plugin.path if job.plugin and expected.patch_linears else None,
                expected=expected,
                options=r.engine_options(),
                progress=update,
            )
        if report.plugin and job.plugin:
            report = report.model_copy(update={"plugin_headers": headers_of(job.plugin)})
        report.write(root / ENGINE_REPORT)

    def write_report(self, root: Path) -> None:
        from patch_compile.pipeline.summary import engine_of, masked_model, onnx_of
        from patch_compile.verification.proof import prove

        job, plan = self.job, Plan.read(root / PLAN)
        scratch = self.workspace.scratch / "proof"
        proof = prove(job.source, root / ONNX, self.pruned, plan.packed, scratch, self.progress)
        kind = DecoderReport if isinstance(proof, TokensProof) else OutputsReport
        report = kind(
            **dict(masked_model(job, self.masks, plan.linears)),
            **dict(proof),
            path=str(job.out / REPORT),
            dense_given=not prunes_nothing(self.masks, job.source.weight),
            plan=plan.summary,
            onnx=onnx_of(job, root),
            engine=engine_of(job, root),
            notes=tuple(self.progress.notes),
            seconds=self.progress.seconds,
        )
        report.write(root / REPORT)


def keys_of(job: Job, dump: PassDump | None = None) -> dict[Stage, str]:
    """Returns the key of each stage, which includes the key of the stage before it.

    A dump makes the key of the ONNX stage unique, because the passes have to run again to write it.
    """
    from masklearn import open_text

    r, masks = job.recipe, masks_key(job.source, job.recipe, job.costs, job.chooser)
    dumped = None if dump is None else time.time_ns()
    graph = (r.dtype, r.opset, r.logits, r.fuse, r.lowering)
    onnx = key_of(masks, *graph, job.source.graph_key, repr(job.costs), dumped, Plan.SCHEMA)
    shapes = [r.min_shapes, r.opt_shapes, r.max_shapes, repr(r.engine_options())]
    plugin = job.plugin.fingerprint if job.plugin else None
    targets = [target.name for target in job.targets]
    engine = key_of(onnx, job.backend, targets, shapes, plugin, EngineReport.SCHEMA)
    evaluated = None if r.eval_text is None else open_text(r.eval_text).fingerprint()
    texts = [job.source.calibration_hash, evaluated]
    proof = key_of(engine, texts, r.eval_windows, r.eval_length, r.seed, DecoderReport.SCHEMA)
    return {Stage.MASKS: masks, Stage.ONNX: onnx, Stage.ENGINE: engine, Stage.PROOF: proof}


@contextmanager
def opened(job: Job, progress: Progress, *, force: bool, resume: bool) -> Iterator[Workspace]:
    """Open the workspace of a job. After an interruption its finished stages are kept for `resume`."""
    workspace = Workspace(job.out, force=force, resume=resume)
    try:
        yield workspace
    except BaseException as error:
        if not workspace.discard_if_empty() and isinstance(error, KeyboardInterrupt | PatchCompileError):
            progress.note(f"finished stages are kept in {workspace.root}; --resume continues from there")
        raise
    finally:
        workspace.release()
