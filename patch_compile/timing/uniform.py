"""Masks of a uniform 2:4 model: every tile of every covered linear is 2:4, by magnitude.

The choice of two weights out of four does not change the time, so the cheapest patterns serve.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from masklearn.masks.linear_mask import LinearMask
from masklearn.masks.nm_codes import patterns_from_scores

__all__ = ["UniformMasks"]


class UniformMasks(Mapping[str, LinearMask]):
    """Masks that are computed on access. All masks together would take a quarter of the weights' memory.

    like: masks of the same linears, which give the tiles; read: returns the weight `[N, K]` of a linear.
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
