"""Masks of a uniform 2:4 model: every tile of every covered linear is 2:4, by magnitude.

Which two of four weights are kept makes no difference to time, so the patterns are the cheapest there are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from masklearn.masks.linear_mask import LinearMask
from masklearn.masks.patterns import patterns_from_scores

__all__ = ["UniformMasks"]


class UniformMasks(Mapping[str, LinearMask]):
    """A mask of each linear, made when it is asked for: those of all would take a quarter of the weights' memory.

    like: masks of the same linears, for their tiles; read: the weight `[N, K]` of a linear.
    """

    def __init__(self, like: Mapping[str, LinearMask], read: Callable[[str], NDArray[np.float32]]) -> None:
        self._like, self._read = like, read

    def __getitem__(self, name: str) -> LinearMask:
        like = self._like[name]
        pattern = patterns_from_scores(np.abs(self._read(name)))
        return LinearMask.from_candidate(like.tile, np.ones_like(like.tiles), pattern)

    def __iter__(self) -> Iterator[str]:
        return iter(self._like)

    def __len__(self) -> int:
        return len(self._like)
