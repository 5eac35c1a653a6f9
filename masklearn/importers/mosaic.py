"""A published mask of 0 and 1 to a hybrid mask, and what of it the hybrid mask does not take over."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from masklearn.importers.groups import zeros_per_group
from masklearn.masks.linear_mask import LinearMask
from masklearn.masks.patterns import patterns_from_scores
from masklearn.masks.tiles import GROUP, expand_tiles, tile_sums, tile_weights

__all__ = ["Mosaic", "mosaic_of"]

_NEARLY = 0.9  # of a tile's groups: the rest was damaged after it was pruned
_LARGE = 64  # groups of a tile, below which that may be chance


@dataclass(frozen=True, eq=False)
class Mosaic:
    """mask: the hybrid mask; zeros: of the published one; nearly: tiles that are dense because of a few groups."""

    mask: LinearMask
    zeros: int
    nearly: int

    @property
    def sparse(self) -> NDArray[np.bool_]:
        """Groups that lie in sparse tiles, bool `[N, K/4]`."""
        return expand_tiles(self.mask.tiles, self.mask.shape, self.mask.tile)

    def dropped(self, kept: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Zeros of the published mask that the hybrid mask keeps, bool `[N, K]`.

        Those in dense tiles, and the third and fourth of a group in a sparse one.
        """
        return self.mask.keep() & ~kept


def mosaic_of(
    kept: NDArray[np.bool_], tile: tuple[int, int], free: NDArray[np.bool_] | None = None
) -> Mosaic:
    """The hybrid mask of a published mask `[N, K]`: tiles of which all groups of 4 have two zeros or more are 2:4.

    free: bool `[N, K]`, where the model's weight is zero, so that keeping it changes nothing. A group with more than
    two zeros keeps what is not zero, then what is free, then the lower k.
    """
    preference = kept.view(np.uint8) if free is None else 2 * kept.view(np.uint8) + free.view(np.uint8)
    shape = (kept.shape[0], kept.shape[1])
    zeros = zeros_per_group(kept)
    dense_groups = tile_sums(zeros < 2, tile)
    tiles = dense_groups == 0
    mask = LinearMask.from_candidate(tile, tiles, patterns_from_scores(preference))
    groups = tile_weights(shape, tile) // GROUP
    nearly = (dense_groups > 0) & (dense_groups <= (1 - _NEARLY) * groups) & (groups >= _LARGE)
    return Mosaic(mask, int(zeros.sum(dtype=np.int64)), int(nearly.sum()))
