"""Estimates, before any model is loaded, if all models fit into memory together.

Taking turns needs all models loaded at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from patch_compile.artifacts.bench import Phase
from patch_compile.errors import PatchCompileError
from patch_compile.timing.points import Point

if TYPE_CHECKING:
    from patch_compile.planning.roofline.rest import Model

__all__ = ["Footprint", "check_memory", "footprint_of_file"]

# ONNX Runtime's CPU kernels multiply in fp32: it keeps a widened copy of every 16-bit weight, and another one in its
# kernel's order. Integer operations unpack packed weights when the model is loaded: SmolLM2-135M peaks at 3.2 GiB
# there.
_BYTES_PER_WEIGHT, _PACKED_BYTES_PER_WEIGHT = 8, 24
_PROCESS = 300 << 20  # bytes of Python, ONNX Runtime and their libraries


@dataclass(frozen=True)
class Footprint:
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


def footprint_of_file(nbytes: int) -> int:
    """Returns the bytes of an ONNX file's model in ONNX Runtime, known only by the size of the file.

    It assumes at least 16 bits a weight. Activations come on top.
    """
    return _PROCESS + _PACKED_BYTES_PER_WEIGHT // 2 * nbytes


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
