"""Tile maps without patterns: all of a mask that plans depend on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from masklearn.masks.kinds.base import TileKind
from masklearn.masks.linear_mask import weights_by_kind, zeroed_weights

Shape = tuple[int, int]


@dataclass(frozen=True, eq=False)
class TileKinds:
    """The kinds of a linear's tiles, codes `[grid]`."""

    shape: Shape
    tile: Shape
    kinds: NDArray[np.uint8]

    @property
    def zeroed(self) -> int:
        return zeroed_weights(self.kinds, self.shape, self.tile)

    def by_kind(self) -> dict[TileKind, int]:
        return weights_by_kind(self.kinds, self.shape, self.tile)


def tile_maps(
    linears: Mapping[str, Shape], tile: Shape, kinds: Mapping[str, NDArray[Any]]
) -> dict[str, TileKinds]:
    """Returns the tile maps of linears `[N, K]`. kinds: codes `[grid]`, where True is 2:4."""
    return {name: TileKinds(shape, tile, kinds[name].astype(np.uint8)) for name, shape in linears.items()}
