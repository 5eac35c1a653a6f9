"""Points of a benchmark: a prompt of some length, or one decode step after some tokens, at a batch size."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from patch_compile.artifacts.bench import Phase
from patch_compile.onnx_io.graph_inputs import GraphInput, resolve_dims
from patch_compile.onnx_io.tensor_names import INPUT_IDS, PAST, POSITION_IDS, TOKEN_TYPE_IDS

Feed = Mapping[str, NDArray[Any]]
MakeFeed = Callable[[], Feed]
"""Makes the inputs in the process that needs them: a long cache takes gigabytes, too much for a pipe."""


@dataclass(frozen=True)
class Point:
    """One row of a benchmark. tokens: tokens of each prompt, or before the decode step; None for WHOLE."""

    phase: Phase
    batch: int
    tokens: int | None

    @property
    def sizes(self) -> dict[str, int]:
        """Returns the sizes of the dimensions of a decoder's or an encoder's inputs, by name."""
        tokens = self.tokens or 0
        if self.phase is Phase.DECODE:
            return {"batch": self.batch, "sequence": 1, "past": tokens}
        return {"batch": self.batch, "sequence": tokens, "past": 0}

    def __str__(self) -> str:
        if self.tokens is None:
            return f"{self.phase}, batch {self.batch}"
        what = "past tokens" if self.phase is Phase.DECODE else "tokens"
        return f"{self.phase}, batch {self.batch}, {self.tokens} {what}"


def grid_of(batches: Sequence[int], prompts: Sequence[int], pasts: Sequence[int]) -> list[Point]:
    """Returns every batch with every prompt, then every batch with every past. pasts: empty for an encoder."""
    phases = ((Phase.PREFILL, prompts), (Phase.DECODE, pasts))
    return [
        Point(phase, batch, tokens)
        for phase, many in phases
        for batch in dict.fromkeys(batches)
        for tokens in dict.fromkeys(many)
    ]


def feed_of(point: Point, inputs: Sequence[GraphInput], vocabulary: int) -> Feed:
    """Returns the inputs of a decoder or an encoder at a point, by name.

    Tokens are drawn uniformly, nothing is padded, and the cache holds normally distributed numbers, the same for all
    layers and sequences. A cache of zeros would have the right shapes, but costs a GPU less power than real numbers.
    Integers are int64 and the cache is fp32: a runner converts them to the types of its model.
    """
    rng = np.random.default_rng(0)
    return {given.name: _drawn(given, point, vocabulary, rng) for given in inputs}


@lru_cache(maxsize=4)
def _numbers(shape: tuple[int, ...]) -> NDArray[np.float32]:
    return np.random.default_rng(0).standard_normal(shape, np.float32)


def _drawn(given: GraphInput, point: Point, vocabulary: int, rng: np.random.Generator) -> NDArray[Any]:
    shape = resolve_dims(given, point.sizes)
    if given.name.startswith(PAST):
        return np.broadcast_to(_numbers(shape[1:]), shape)
    if given.name == INPUT_IDS:
        return rng.integers(0, vocabulary, shape)
    if given.name == POSITION_IDS:
        first = point.sizes["past"]
        return np.broadcast_to(np.arange(first, first + shape[1]), shape).copy()
    return np.zeros(shape, np.int64) if given.name == TOKEN_TYPE_IDS else np.ones(shape, np.int64)
