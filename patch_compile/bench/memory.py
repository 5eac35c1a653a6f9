"""Whether all models fit into memory together, for taking turns wants them all loaded: known before any is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from patch_compile.bench.points import Phase, Point
from patch_compile.errors import PatchCompileError

if TYPE_CHECKING:
    from patch_compile.plan.roofline.rest import Model

__all__ = ["Footprint", "check_memory", "footprint_of_file"]

# ONNX Runtime's CPU kernels multiply in fp32: it holds a 16-bit weight widened, and once more in the order of its kernel.
# Packed weights are unpacked when the model is loaded, by integer operations: SmolLM2-135M peaks at 3.2 GiB there.
_BYTES_PER_WEIGHT, _PACKED_BYTES_PER_WEIGHT = 8, 24
_PROCESS = 300 << 20  # Python, ONNX Runtime and their libraries


@dataclass(frozen=True)
class Footprint:
    """Bytes of one model in ONNX Runtime on the CPU, roughly, from above. weights: how many; all_logits: a decoder gives
    those of every position."""

    weights: int
    model: Model
    all_logits: bool = False

    def needs(self, points: Sequence[Point], *, packed: bool) -> int:
        """Loaded, and running the largest of the points; packed: it has PatchLinears."""
        running = max(map(self._running, points), default=0)
        weight = _PACKED_BYTES_PER_WEIGHT if packed else _BYTES_PER_WEIGHT
        return _PROCESS + weight * self.weights + running

    def _running(self, point: Point) -> int:
        """Cache in and out in fp16 and fp32, activations of one block, scores of attention, logits; fp32."""
        m, tokens = self.model, point.tokens or 1
        new, context = (1, tokens + 1) if point.phase is Phase.DECODE else (tokens, tokens)
        cache = 2 * m.layers * m.kv * context * (2 + 2)
        block = 4 * new * (8 * m.hidden + 3 * m.intermediate + 4 * m.q) + 8 * m.kv * context
        scores = 8 * m.heads * new * context
        logits = 8 * m.vocabulary * (new if self.all_logits else 1)
        return point.batch * (cache + block + scores + logits)


def footprint_of_file(nbytes: int) -> int:
    """The same of an ONNX file of which no more is known than its bytes, of 16 bits a weight or more; activations come on
    top."""
    return _PROCESS + _PACKED_BYTES_PER_WEIGHT // 2 * nbytes


def check_memory(needed: int, available: int, models: int, where: str = "memory") -> None:
    """Raise PatchCompileError unless what so many models need is there. Bytes."""
    if needed <= available:
        return
    raise PatchCompileError(
        f"{models} models do not fit into {where} together",
        f"they need some {needed / 2**30:.1f} GiB, and {available / 2**30:.1f} GiB are free; they take turns, so that what "
        "the machine does meanwhile hits all alike, and so all are loaded at once",
        "time fewer: --against dense, or none; or smaller batches and fewer tokens",
    )
