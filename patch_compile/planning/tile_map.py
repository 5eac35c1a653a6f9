"""Masks made only from tile maps, for plans, which depend only on the numbers of slabs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from masklearn.masks.kinds.base import TileKind
from masklearn.masks.kinds.table import BY_CODE, TWO_FOUR
from masklearn.masks.linear_mask import LinearMask, weights_by_kind, zeroed_weights
from masklearn.masks.tiles import expand_tiles

Shape = tuple[int, int]


@dataclass(frozen=True, eq=False)
class TileKinds:
    """The kinds of a linear's tiles `[grid]`, without patterns: all of a mask that a plan depends on."""

    shape: Shape
    tile: Shape
    kinds: NDArray[np.uint8]

    @property
    def zeroed(self) -> int:
        """Number of weights zeroed by pattern."""
        return zeroed_weights(self.kinds, self.shape, self.tile)

    def by_kind(self) -> dict[TileKind, int]:
        """Returns the number of weights in tiles of each kind."""
        return weights_by_kind(self.kinds, self.shape, self.tile)


def unpatterned(
    linears: Mapping[str, Shape], tile: Shape, tiles: Mapping[str, NDArray[Any]]
) -> dict[str, LinearMask]:
    """Returns masks of these tile maps, in which every group keeps its first weights.

    linears: `[N, K]`; tiles: codes of kinds `[grid]`, where True is 2:4.
    """
    return {name: unpatterned_mask(shape, tile, tiles[name]) for name, shape in linears.items()}


def unpatterned_mask(shape: Shape, tile: Shape, tiles: NDArray[Any]) -> LinearMask:
    """Returns the mask of one linear, as `unpatterned` does."""
    kinds = tiles.astype(np.uint8)
    codes: dict[str, NDArray[Any]] = {}
    for code in np.unique(kinds):
        kind = BY_CODE[int(code)]
        if kind.family is None:
            continue
        if kind is TWO_FOUR:
            codes[kind.family.name] = np.zeros((shape[0], shape[1] // kind.group), np.uint8)
        else:
            empty = np.zeros((shape[0], shape[1] // kind.group), kind.family.stored)
            first = codes.setdefault(kind.family.name, empty)
            first[expand_tiles(kinds == code, shape, tile, kind.group)] = (1 << kind.kept) - 1
    return LinearMask.from_codes(shape, tile, kinds, codes)
