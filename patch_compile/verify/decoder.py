"""A decoder run by ONNX Runtime: prefill, then steps through the KV cache."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from patch_compile.errors import PatchCompileError

__all__ = ["Logits", "OnnxDecoder", "open_session"]

Cache = dict[str, Any]
Logits = NDArray[np.float32]


def open_session(path: Path) -> Any:
    """An ONNX Runtime session on the CPU. Its warnings about folding are not the user's concern."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = len(os.sched_getaffinity(0))
    try:
        return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime raises a dozen unrelated classes of its own
        raise PatchCompileError(f"ONNX Runtime cannot load {path}", str(error)) from error


class OnnxDecoder:
    """A decoder ONNX file with KV cache I/O: `input_ids`, `attention_mask`, `position_ids`, `past_key_values.*`."""

    def __init__(self, path: Path) -> None:
        self.session = open_session(path)
        self._inputs = {i.name: i for i in self.session.get_inputs()}
        self._outputs = [o.name for o in self.session.get_outputs()]

    def empty_cache(self, batch: int) -> Cache:
        """A cache of no tokens: `[batch, heads, 0, head_dim]` per layer."""
        return {
            name: np.zeros((batch, i.shape[1], 0, i.shape[3]), _NUMPY_OF[i.type])
            for name, i in self._inputs.items()
            if name.startswith("past_key_values.")
        }

    def feed(self, ids: NDArray[np.int64], cache: Cache, mask: NDArray[np.int64] | None = None) -> Cache:
        """The inputs of one call. ids: `[batch, sequence]`; mask: `[batch, past + sequence]`, 0 = padding."""
        past = next(iter(cache.values())).shape[2] if cache else 0
        if mask is None:
            mask = np.ones((ids.shape[0], past + ids.shape[1]), np.int64)
        positions = np.maximum(np.cumsum(mask, axis=1) - 1, 0)[:, past:]
        return {"input_ids": ids, "attention_mask": mask, "position_ids": positions, **cache}

    def step(
        self, ids: NDArray[np.int64], cache: Cache, mask: NDArray[np.int64] | None = None
    ) -> tuple[Logits, Cache]:
        """Logits fp32 `[batch, sequence, vocabulary]` and the longer cache."""
        out = dict(zip(self._outputs, self.session.run(None, self.feed(ids, cache, mask)), strict=True))
        logits = out.pop("logits").astype(np.float32)
        return logits, {name.replace("present.", "past_key_values."): value for name, value in out.items()}

    def generate(self, ids: list[int], new_tokens: int, stop: Callable[[list[int]], bool]) -> list[int]:
        """Greedy continuation of a prompt, until `stop(tokens)` or `new_tokens`."""
        logits, cache = self.step(np.array([ids], np.int64), self.empty_cache(1))
        produced: list[int] = []
        while True:
            produced.append(int(logits[0, -1].argmax()))
            if len(produced) == new_tokens or stop(produced):
                return produced
            logits, cache = self.step(np.array([[produced[-1]]], np.int64), cache)


_NUMPY_OF = {"tensor(float16)": np.float16, "tensor(float)": np.float32}
