"""Arbitrary ONNX files as sources: their linears have any form, and their inputs are arrays of any kind."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from typing_extensions import override

from masklearn.masks.linear_mask import LinearMask
from masklearn.model.coverage import Coverage
from masklearn.quant.grid import Grid
from patch_compile.artifacts.report import Kind
from patch_compile.artifacts.stage_files import sha256_of
from patch_compile.errors import PatchCompileError
from patch_compile.onnx_io.compare import Outputs, answer
from patch_compile.onnx_io.feeds import Feed
from patch_compile.onnx_io.graph_inputs import dim_names, read_inputs
from patch_compile.onnx_io.runnable import holds_bfloat16, runnable_onnx
from patch_compile.passes.linears import Linear
from patch_compile.planning.gains import ALL_SPARSE
from patch_compile.planning.lowering import LinearPlan
from patch_compile.progress import Progress
from patch_compile.recipe import Recipe
from patch_compile.sources.base import Bars, OutputSource, Probe, Stage
from patch_compile.sources.formats import ONNX_FILE
from patch_compile.sources.onnx_model.facts import OnnxFacts, examine
from patch_compile.sources.plan_task import PlanTask
from patch_compile.sources.pruning import Pruning, grids_of_pruned, types_to_round
from patch_compile.sources.rounding import Rounding

if TYPE_CHECKING:
    from masklearn.choice.solve import Chooser
    from patch_compile.passes import PassDump

_RUNS = 8  # most runs of the inputs that models are compared on
_MOMENT_BYTES = 4


class OnnxSource(OutputSource):
    """An ONNX file. It is read when a property needs its content."""

    format = ONNX_FILE

    def __init__(self, recipe: Recipe) -> None:
        self.model, self._asked = recipe.model, recipe

    @property
    @override
    def kind(self) -> Kind:
        return Kind.ONNX

    @cached_property
    def _facts(self) -> OnnxFacts:
        return examine(self._asked)

    @property
    @override
    def recipe(self) -> Recipe:
        """The settings with the file's own 16-bit type and the method that the given inputs allow."""
        return self._facts.recipe

    @property
    @override
    def name(self) -> str:
        """Name of the file without its suffix."""
        return self.model.stem

    @property
    @override
    def coverage(self) -> Coverage:
        return self._facts.coverage

    @property
    @override
    def size(self) -> int:
        return self._facts.weights

    @property
    @override
    def notes(self) -> Sequence[str]:
        return self._facts.notes

    @cached_property
    @override
    def calibration_hash(self) -> str | None:
        return None if self.recipe.calib is None else sha256_of(Path(self.recipe.calib))

    @override
    def check(self, stages: Collection[Stage]) -> None:
        """Check that ONNX Runtime runs the file on the first of its inputs, and that its outputs are finite.

        A bfloat16 model is skipped, because only a copy of it is ever run."""
        from patch_compile.onnx_io.own_process import check_runs

        if not holds_bfloat16(self.model):
            self._check_outputs(check_runs(self.model, self._facts.feeds[0], self._how_to_feed()))
        self.check_masks()

    def _check_outputs(self, outputs: Mapping[str, NDArray[Any]]) -> None:
        """Raise PatchCompileError if no element of an output is finite, which leaves nothing to compare."""
        for name, values in outputs.items():
            if values.dtype.kind == "f" and values.size and not bool(np.isfinite(values).any()):
                raise PatchCompileError(
                    f"The output {name!r} of {self.model} is not finite",
                    "All of its values are NaN or infinite on the first of the inputs, before anything is pruned: the "
                    "weights are damaged, or the model's own type does not hold the values that it computes.",
                    f"{self._how_to_feed()} Or export the model in fp32.",
                )

    def _how_to_feed(self) -> str:
        if self.recipe.calib is not None:
            return f"Give other inputs than {self.recipe.calib} with --calib."
        fix = "Give inputs that the model takes with --calib inputs.npz"
        if sizes := ",".join(f"{name}=SIZE" for name in dim_names(read_inputs(self.model))):
            fix += f", or sizes that it takes with --opt-shapes {sizes}"
        return f"{fix}."

    @override
    def check_shapes(self) -> None:
        from patch_compile.engine.profiles import profiles_from_onnx

        r = self.recipe
        profiles_from_onnx(self.model, r.min_shapes, r.opt_shapes, r.max_shapes)

    @override
    def space(self, recipe: Recipe, stages: Collection[Stage]) -> int:
        """Returns bytes: a file of the model's size for each stage, a second copy for the proof, and moments of every
        distinct X."""
        stored = sum(file.stat().st_size for file in self.files)
        moments = sum(_MOMENT_BYTES * k * k for k in self._facts.inputs)
        needs = dict.fromkeys(Stage, stored) | {Stage.MASKS: stored + moments, Stage.PROOF: 2 * stored}
        return sum(needs[stage] for stage in stages)

    @override
    def learn(self, recipe: Recipe, scratch: Path, progress: Progress, choose: Chooser | None) -> Pruning:
        from patch_compile.sources.onnx_model.pruning import learn_pruning
        from patch_compile.sources.onnx_model.rounding import check_float16

        with progress.stage("range of float16"):
            folder = scratch / "range"
            folder.mkdir(parents=True, exist_ok=True)
            check_float16(self._facts, self._compiled_at_most(), folder)
        return learn_pruning(replace(self._facts, recipe=recipe), self.fingerprint, scratch, progress, choose)

    def _compiled_at_most(self) -> list[str]:
        """Returns the linears that are compiled if all of their tiles are 2:4."""
        plans = PlanTask.of(self).plan_at(dict.fromkeys(self.coverage.linears, ALL_SPARSE), None)
        return [name for name, plan in plans.items() if plan.lowering != "dense"]

    @override
    def take_given(self, scratch: Path, progress: Progress) -> Pruning:
        from patch_compile.sources.onnx_model.pruning import OnnxPruning, round_pruning

        given = OnnxPruning(self.given.masks, *self._facts.read(self.given.weights), self._facts.dtype)
        if types_to_round(given.masks, self.recipe.weights, self.recipe.mask):
            return round_pruning(given, self.recipe.learning(), scratch, progress)
        return given

    @override
    def weight(self, name: str) -> NDArray[np.float32]:
        return self._linears[name].checked_weight(self._facts.dtype)

    @cached_property
    def _linears(self) -> dict[str, Linear]:
        return self._facts.read(self.model)[1]

    @override
    def write_hybrid(
        self,
        weights: Path,
        masks: Mapping[str, LinearMask],
        plan: Mapping[str, LinearPlan],
        path: Path,
        bars: Bars,
        dump: PassDump | None = None,
    ) -> dict[str, LinearPlan]:
        from patch_compile.passes.write import write_onnx_hybrid

        model, linears = self._facts.read(weights)
        with bars("pack") as update:
            path.parent.mkdir(parents=True, exist_ok=True)
            return write_onnx_hybrid(
                model, linears, masks, plan, self._facts.dtype, path, update, fuse=self.recipe.fuse, dump=dump
            )

    @override
    def dense_onnx(self, path: Path, *, runnable: bool = False) -> Path:
        """Returns the file itself, or if `runnable` and it holds bfloat16 a copy next to `path` that ONNX Runtime can
        run."""
        return runnable_onnx(self.model, path.parent) if runnable else self.model

    @override
    def probe(self, hybrid: Path, progress: Progress) -> Probe:
        """Returns the calibration inputs, or random inputs without --calib."""
        feeds = self._facts.feeds
        return Probe(feeds[:_RUNS], feeds.origin)

    @override
    def pruned_outputs(
        self, pruned: Path, feeds: Sequence[Feed], outputs: tuple[str, ...], folder: Path
    ) -> Outputs:
        """Returns outputs of the pruned model in ONNX Runtime. The inputs of linears of w8a8 are rounded to int8 in a
        copy."""
        from patch_compile.passes.lowering.round_inputs import rounds_inputs, write_rounded

        grids = self._grids(pruned)
        if any(map(rounds_inputs, grids.values())):
            write_rounded(pruned, grids, folder.with_suffix(".onnx"))
            pruned = folder.with_suffix(".onnx")
        return answer(runnable_onnx(pruned, folder.parent), feeds, folder)

    def _grids(self, pruned: Path) -> Mapping[str, Grid]:
        return grids_of_pruned(pruned.parent, self.recipe.mask)

    @override
    def rounding(
        self,
        pruned: Path,
        hybrid: Path,
        packed: Sequence[str],
        probe: Probe,
        reference: Outputs,
        scratch: Path,
    ) -> Rounding:
        from patch_compile.sources.onnx_model.rounding import measured_rounding

        return measured_rounding(
            self._facts, pruned, hybrid, packed, self._grids(pruned), probe.feeds, reference, scratch
        )
