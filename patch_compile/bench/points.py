"""What is timed: a prompt of so many tokens, or one decode step after so many, for so many sequences."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from patch_compile.onnx_io.graph_inputs import GraphInput, resolve_dims

__all__ = ["Feed", "MakeFeed", "Phase", "Point", "feed_of", "grid_of"]

Feed = Mapping[str, NDArray[Any]]
MakeFeed = Callable[[], Feed]
"""What makes the inputs, where they are wanted: a cache of many tokens takes gigabytes, which no pipe should carry."""
_PAST = "past_key_values."


class Phase(StrEnum):
    """PREFILL reads prompts, DECODE appends a token to each; WHOLE runs a model that has no such phases."""

    PREFILL = "prefill"
    DECODE = "decode"
    WHOLE = "whole"


@dataclass(frozen=True)
class Point:
    """One row of a benchmark. tokens: of each prompt, or before the step; None for a whole run."""

    phase: Phase
    batch: int
    tokens: int | None

    @property
    def sizes(self) -> dict[str, int]:
        """The dimensions of a decoder's or an encoder's inputs."""
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
    """Every batch with every prompt, then every batch with every past; pasts is empty for an encoder."""
    phases = ((Phase.PREFILL, prompts), (Phase.DECODE, pasts))
    return [
        Point(phase, batch, tokens)
        for phase, many in phases
        for batch in dict.fromkeys(batches)
        for tokens in dict.fromkeys(many)
    ]


def feed_of(point: Point, inputs: Sequence[GraphInput], vocabulary: int) -> Feed:
    """Inputs of a decoder or an encoder at a point, by name: tokens drawn evenly, no padding, a cache of normal numbers.

    Zeros in the cache would do for the shapes, but cost a GPU less power than numbers do; all layers and sequences have the
    same ones. Integers are int64, the cache is fp32: a runner turns them into the types that its model takes.
    """
    rng = np.random.default_rng(0)
    return {given.name: _drawn(given, point, vocabulary, rng) for given in inputs}


@lru_cache(maxsize=4)
def _numbers(shape: tuple[int, ...]) -> NDArray[np.float32]:
    return np.random.default_rng(0).standard_normal(shape, np.float32)


def _drawn(given: GraphInput, point: Point, vocabulary: int, rng: np.random.Generator) -> NDArray[Any]:
    shape = resolve_dims(given, point.sizes)
    if given.name.startswith(_PAST):
        return np.broadcast_to(_numbers(shape[1:]), shape)
    if given.name == "input_ids":
        return rng.integers(0, vocabulary, shape)
    if given.name == "position_ids":
        first = point.sizes["past"]
        return np.broadcast_to(np.arange(first, first + shape[1]), shape).copy()
    return np.zeros(shape, np.int64) if given.name == "token_type_ids" else np.ones(shape, np.int64)
