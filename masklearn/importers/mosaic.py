"""Converts a published mask of zeros and ones to a hybrid mask."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from masklearn.masks.linear_mask import LinearMask
from masklearn.masks.patterns import patterns_from_scores
from masklearn.masks.tiles import GROUP, expand_tiles, tile_sums, tile_weights

__all__ = ["Mosaic", "mosaic_of", "zeros_per_group"]

_NEARLY = 0.9  # a dense tile with at least this share of 2:4 groups was probably 2:4 before later training
_LARGE = 64  # least number of groups of such a tile; in smaller tiles it may be chance


@dataclass(frozen=True, eq=False)
class Mosaic:
    """Hybrid mask of a published mask.

    mask: the hybrid mask; zeros: number of zeros in the published mask; nearly: number of tiles that are dense because of a
    few groups only.
    """

    mask: LinearMask
    zeros: int
    nearly: int

    @property
    def sparse(self) -> NDArray[np.bool_]:
        """Groups in sparse tiles, bool `[N, K/4]`."""
        return expand_tiles(self.mask.tiles, self.mask.shape, self.mask.tile)

    def dropped(self, kept: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Returns the zeros of the published mask `kept` that the hybrid mask does not have, bool `[N, K]`.

        They are the zeros in dense tiles, and the third and fourth zeros of a group in a sparse tile.
        """
        return self.mask.keep() & ~kept


def mosaic_of(
    kept: NDArray[np.bool_], tile: tuple[int, int], free: NDArray[np.bool_] | None = None
) -> Mosaic:
    """Returns the hybrid mask of a published mask `[N, K]`. A tile is 2:4 if all its groups of 4 have two zeros or more.

    A group with more than two zeros keeps first the weights that are not zero, then free weights, then the lower k.
    free: bool `[N, K]`, True for weights that are zero in the model, which can be kept without any effect.
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


def zeros_per_group(kept: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Returns the number of pruned weights of each 4 consecutive k, uint8 `[N, K/4]`; kept: bool `[N, K]`."""
    quarters = kept.view(np.uint8).reshape(kept.shape[0], -1, GROUP)
    # The four columns are added, because a sum over an axis of length 4 is ten times slower.
    zeros: NDArray[np.uint8] = GROUP - (
        quarters[..., 0] + quarters[..., 1] + quarters[..., 2] + quarters[..., 3]
    )
    return zeros
