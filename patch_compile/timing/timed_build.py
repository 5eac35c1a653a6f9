"""The build that is timed: its source, its inputs, its sizes, and the memory that its models take together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial

from rich.console import Console

from patch_compile.artifacts.bench import Contender, Phase
from patch_compile.artifacts.folder import OutFolder
from patch_compile.artifacts.layout import ENGINE, ONNX
from patch_compile.artifacts.plan import Plan
from patch_compile.errors import PatchCompileError, sentence
from patch_compile.onnx_io.graph_inputs import GraphInput, read_inputs
from patch_compile.planning.roofline.rest import Model
from patch_compile.progress import Progress
from patch_compile.runtime import Runner
from patch_compile.sources.base import OutputSource, Source
from patch_compile.timing.models import file_bytes
from patch_compile.timing.points import MakeFeed, Point, feed_of
from patch_compile.timing.predicted import PlannedModel, planned_model
from patch_compile.timing.request import BenchRequest

# ONNX Runtime's CPU kernels multiply in fp32: it keeps a widened copy of every 16-bit weight, and another copy in its
# kernel's order. Integer operations unpack packed weights when the model is loaded: SmolLM2-135M peaks at 3.2 GiB
# there.
_BYTES_PER_WEIGHT, _PACKED_BYTES_PER_WEIGHT = 8, 24
_PROCESS = 300 << 20  # bytes of Python, ONNX Runtime and their libraries


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
        """Returns the inputs of the hybrid ONNX file. The other models have equal inputs."""
        return read_inputs(self.out.path / ONNX)

    @property
    def name(self) -> str:
        return self.out.manifest.model.name

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
            # Known only by the size of the file: at least 16 bits a weight; activations come on top.
            return models * (_PROCESS + _PACKED_BYTES_PER_WEIGHT // 2 * self._dense_bytes(ONNX))
        all_logits = self.source.recipe.logits == "all"
        one = _Footprint(self.source.weights, self.planned.outline.model, all_logits)
        return sum(one.needs(points, packed=which is not Contender.DENSE) for which in self.asked.models)

    def engine_bytes(self) -> int:
        """Returns a rough upper bound of the bytes of all engines' weights. No engine is larger than the dense engine."""
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


@dataclass(frozen=True)
class _Footprint:
    """Rough upper bound of the bytes of one model in ONNX Runtime on the CPU.

    weights: number of weights; all_logits: True if a decoder returns the logits of every position.
    """

    weights: int
    model: Model
    all_logits: bool = False

    def needs(self, points: Sequence[Point], *, packed: bool) -> int:
        """Returns the bytes of the loaded model running the largest of `points`. packed: True if it has PatchLinears."""
        running = max(map(self._running, points), default=0)
        weight = _PACKED_BYTES_PER_WEIGHT if packed else _BYTES_PER_WEIGHT
        return _PROCESS + weight * self.weights + running

    def _running(self, point: Point) -> int:
        """Returns the bytes of a run: cache in and out (fp16 and fp32), one block's activations, scores, logits (fp32)."""
        m, tokens = self.model, point.tokens or 1
        new, context = (1, tokens + 1) if point.phase is Phase.DECODE else (tokens, tokens)
        cache = 2 * m.layers * m.kv * context * (2 + 2)
        block = 4 * new * (8 * m.hidden + 3 * m.intermediate + 4 * m.q) + 8 * m.kv * context
        scores = 8 * m.heads * new * context
        logits = 8 * m.vocabulary * (new if self.all_logits else 1)
        return point.batch * (cache + block + scores + logits)


def check_memory(needed: int, available: int, models: int, where: str = "memory") -> None:
    """Raises PatchCompileError if `models` models need more than the available memory. Both are in bytes."""
    if needed <= available:
        return
    raise PatchCompileError(
        f"{models} models do not fit into {where} together",
        f"They need some {needed / 2**30:.1f} GiB, and {available / 2**30:.1f} GiB are free. All are loaded at once, "
        "because they take turns: other work on the machine then affects all alike.",
        "Time fewer models (`--against dense`, or `none`), smaller batches or fewer tokens.",
    )
