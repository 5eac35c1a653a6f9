"""Hybrid mask of one linear."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from masklearn.masks.patterns import PATTERNS
from masklearn.masks.tiles import GROUP, check_tile, expand_tiles, grid_shape, sparse_groups

__all__ = ["LinearMask"]

# The four booleans of a group as one 32-bit word, which numpy copies faster than four booleans.
_KEPT = PATTERNS.view(np.uint32)[:, 0]
_ALL_KEPT = np.ones(GROUP, np.bool_).view(np.uint32)[0]


@dataclass(frozen=True, eq=False)
class LinearMask:
    """Tile map of a linear, and the pattern of every group of four weights in its sparse tiles.

    shape: (N, K); tile: (rows, cols), cols % 4 == 0; tiles: bool `[ceil(N/rows), ceil(K/cols)]`, True =
    2:4; pattern: uint8 codes 0..5 `[n]`, one per group of 4 in the sparse tiles, row-major over the
    `[N, K/4]` grid of groups. Raises ValueError if these do not fit together.
    """

    shape: tuple[int, int]
    tile: tuple[int, int]
    tiles: NDArray[np.bool_]
    pattern: NDArray[np.uint8]

    def __post_init__(self) -> None:
        check_tile(self.shape, self.tile)
        if self.tiles.dtype != np.bool_ or self.tiles.shape != grid_shape(self.shape, self.tile):
            raise ValueError(f"tile map {self.tiles.dtype} {self.tiles.shape} for shape {self.shape}")
        groups = sparse_groups(self.tiles, self.shape, self.tile)
        if self.pattern.dtype != np.uint8 or self.pattern.shape != (groups,):
            raise ValueError(f"pattern {self.pattern.dtype} {self.pattern.shape}, {groups} groups are sparse")
        if self.pattern.size and int(self.pattern.max()) >= len(PATTERNS):
            raise ValueError(f"pattern code {int(self.pattern.max())}, the highest is {len(PATTERNS) - 1}")

    @classmethod
    def from_candidate(
        cls, tile: tuple[int, int], tiles: NDArray[np.bool_], pattern: NDArray[np.uint8]
    ) -> "LinearMask":
        """Makes a mask from a tile map and the patterns of all groups, `[N, K/4]`, in dense tiles too."""
        shape = (pattern.shape[0], pattern.shape[1] * GROUP)
        return cls(shape, tile, tiles, pattern[expand_tiles(tiles, shape, tile)])

    def keep(self) -> NDArray[np.bool_]:
        """Returns the mask of the weight, bool `[N, K]`: True = kept."""
        groups = np.full((self.shape[0], self.shape[1] // GROUP), _ALL_KEPT)
        groups[expand_tiles(self.tiles, self.shape, self.tile)] = _KEPT[self.pattern]
        return groups.view(np.bool_)

    @property
    def weights(self) -> int:
        """Number of the linear's weights, N·K."""
        return self.shape[0] * self.shape[1]

    @property
    def sparse_weights(self) -> int:
        """Number of weights in sparse tiles."""
        return int(self.pattern.size) * GROUP

    @property
    def zeroed(self) -> int:
        """Number of weights zeroed by pattern: half of the weights in sparse tiles, whatever other weights are zero."""
        return self.sparse_weights // 2
