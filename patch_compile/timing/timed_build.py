"""The build that is timed: its source, its inputs, its sizes, and the choice of its runner."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

from rich.console import Console

from patch_compile.artifacts.bench import Contender, Phase
from patch_compile.artifacts.folder import OutFolder
from patch_compile.artifacts.layout import ENGINE, ONNX
from patch_compile.artifacts.plan import Plan
from patch_compile.errors import PatchCompileError, sentence
from patch_compile.onnx_io.graph_inputs import GraphInput, read_inputs
from patch_compile.progress import Progress
from patch_compile.runtime import Runner
from patch_compile.sources.base import OutputSource, Source
from patch_compile.timing.engines import why_no_engine
from patch_compile.timing.memory import Footprint, footprint_of_file
from patch_compile.timing.models import file_bytes
from patch_compile.timing.points import MakeFeed, Point, feed_of
from patch_compile.timing.predicted import PlannedModel, planned_model
from patch_compile.timing.request import BenchRequest

__all__ = ["Subject", "choose_runner"]


@dataclass(frozen=True)
class Subject:
    """OUT, the source that it was built from, and the request."""

    out: OutFolder
    source: Source
    asked: BenchRequest

    @cached_property
    def planned(self) -> PlannedModel | None:
        """Returns the build as its plan describes it, or None if there are no predictions for it."""
        return planned_model(self.out, self.source)

    @cached_property
    def inputs(self) -> Sequence[GraphInput]:
        """Returns the inputs of the hybrid ONNX file. The other models have equal ones."""
        return read_inputs(self.out.path / ONNX)

    @property
    def name(self) -> str:
        """Returns the name of the model."""
        return Path(self.out.manifest.model.path).stem

    def feeds(self, runner: Runner) -> dict[Point, MakeFeed]:
        """Returns the points to time, each with a function that makes its inputs."""
        sequences = self.source.sequences
        if sequences is None:
            return self._whole()
        points = self.asked.points(runner, sequences)
        return {point: partial(feed_of, point, self.inputs, sequences.vocabulary) for point in points}

    def onnx_runtime_bytes(self, points: Sequence[Point]) -> int:
        """Returns a rough upper bound of the bytes that all models take in ONNX Runtime."""
        models = len(self.asked.models)
        if self.planned is None:
            return models * footprint_of_file(self._dense_bytes(ONNX))
        all_logits = self.source.recipe.logits == "all"
        one = Footprint(self.source.weights, self.planned.outline.model, all_logits)
        return sum(one.needs(points, packed=which is not Contender.DENSE) for which in self.asked.models)

    def engine_bytes(self) -> int:
        """Returns a rough upper bound of the bytes of all engines' weights. No engine is larger than the dense one."""
        return len(self.asked.models) * self._dense_bytes(ENGINE)

    def _dense_bytes(self, hybrid: str) -> int:
        """Returns the bytes of the dense model in the form of `hybrid`, a file of OUT."""
        plan = Plan.of(self.out.path)
        return file_bytes(self.out.path / hybrid) + (plan.saved_bytes if plan else 0)

    def _whole(self) -> dict[Point, MakeFeed]:
        """Returns the first of the inputs that a build without token sequences was verified on."""
        if any(self.asked.sizes):
            raise PatchCompileError(
                sentence(f"{self.source.words} is timed on the inputs of its build").rstrip("."),
                "It does not tell prompts from decode steps, nor tokens from other axes.",
                "Leave `--batch-size`, `--prompt-tokens` and `--past-tokens` out.",
            )
        assert isinstance(self.source, OutputSource), "every other source takes token sequences"
        feed = self.source.probe(self.out.path / ONNX, Progress(Console(quiet=True))).feeds[0]
        first = next(iter(feed.values()))
        return {Point(Phase.WHOLE, first.shape[0] if first.ndim else 1, None): partial(dict, feed)}


def choose_runner(out: OutFolder, asked: Runner | None, progress: Progress) -> Runner:
    """Returns the runner: the one asked for, else the engine if this machine runs it, else ONNX Runtime.

    Raises PatchCompileError if the runner that was asked for can't be used, and if there is nothing to time.
    """
    if asked is not Runner.ONNX:
        why_not = why_no_engine(out)
        if why_not is None:
            return Runner.ENGINE
        if asked is Runner.ENGINE:
            raise PatchCompileError(
                f"The engine of {out.path} can't be timed here",
                sentence(why_not),
                "Time its ONNX file: `--runner onnx`.",
            )
        progress.note(f"in ONNX Runtime, not its engine: {why_not}")
    if not (out.path / ONNX).is_file():
        raise PatchCompileError(
            f"There is nothing to time in {out.path}",
            f"It holds no {ONNX}.",
            "Build it: `patch-compile build MODEL_DIR`.",
        )
    return Runner.ONNX
