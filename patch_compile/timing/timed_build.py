"""The build that is timed: its source, its inputs, its sizes, and the memory that its models take together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial

from rich.console import Console

from patch_compile.artifacts.bench import Phase
from patch_compile.artifacts.folder import OutFolder
from patch_compile.artifacts.layout import ENGINE, ONNX
from patch_compile.artifacts.plan import Plan
from patch_compile.errors import PatchCompileError
from patch_compile.onnx_io.graph_inputs import GraphInput, read_inputs
from patch_compile.progress import Progress
from patch_compile.sources.base import ProvenSource
from patch_compile.timing.points import MakeFeed, Point, feed_of
from patch_compile.timing.predicted import PlannedModel, planned_model
from patch_compile.timing.request import BenchRequest


@dataclass(frozen=True)
class Subject:
    """OUT, the source that it was built from, and the request."""

    out: OutFolder
    source: ProvenSource
    asked: BenchRequest

    @cached_property
    def planned(self) -> PlannedModel | None:
        return planned_model(self.out, self.source)

    @cached_property
    def inputs(self) -> Sequence[GraphInput]:
        """Returns the inputs of the hybrid ONNX file. The other models have equal inputs."""
        return read_inputs(self.out.path / ONNX)

    @property
    def name(self) -> str:
        return self.out.manifest.model.name

    def feeds(self) -> dict[Point, MakeFeed]:
        """Returns the points to time, each with a function that makes its inputs."""
        sequences = self.source.sequences
        if sequences is None:
            return self._whole()
        points = self.asked.points(sequences)
        return {point: partial(feed_of, point, self.inputs, sequences.vocabulary) for point in points}

    def engine_bytes(self) -> int:
        """Returns a rough upper bound of the bytes of all engines' weights. No engine is larger than the dense engine."""
        plan, hybrid = Plan.of(self.out.path), (self.out.path / ENGINE).stat().st_size
        return len(self.asked.models) * (hybrid + (plan.saved_bytes if plan else 0))

    def _whole(self) -> dict[Point, MakeFeed]:
        """Returns the first of the inputs that a build without token sequences was verified on."""
        if any(self.asked.sizes):
            raise PatchCompileError(
                "An ONNX file is timed on the inputs of its build",
                "It does not tell prompts from decode steps, nor tokens from other axes.",
                "Leave `--batch-size`, `--prompt-tokens` and `--past-tokens` out.",
            )
        feed = self.source.proof_feed(self.out.path / ONNX, Progress(Console(quiet=True)))
        first = next(iter(feed.values()))
        return {Point(Phase.WHOLE, first.shape[0] if first.ndim else 1, None): partial(dict, feed)}


def check_memory(needed: int, available: int, models: int) -> None:
    """Raises PatchCompileError if `models` models need more than the GPU's free memory. Both are in bytes."""
    if needed <= available:
        return
    raise PatchCompileError(
        f"{models} models do not fit into the GPU's memory together",
        f"They need some {needed / 2**30:.1f} GiB, and {available / 2**30:.1f} GiB are free. All are loaded at once, "
        "because they take turns: other work on the machine then affects all alike.",
        "Time fewer models (`--against dense`, or `none`), smaller batches or fewer tokens.",
    )
