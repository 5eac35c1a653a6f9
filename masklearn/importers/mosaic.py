"""Converts a published mask of zeros and ones to a hybrid mask."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from masklearn.masks.kinds.base import TileKind
from masklearn.masks.kinds.table import DENSE, TWO_FOUR, families_of
from masklearn.masks.linear_mask import LinearMask, kept_per_group
from masklearn.masks.tiles import GROUP, expand_tiles, tile_sums, tile_weights

__all__ = ["Mosaic", "by_tightness", "mosaic_of", "zeros_per_group"]

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
        """Groups of 4 in pruned tiles, bool `[N, K/4]`."""
        return expand_tiles(self.mask.kinds != DENSE.code, self.mask.shape, self.mask.tile)

    def dropped(self, kept: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Returns the zeros of the published mask `kept` that the hybrid mask does not have, bool `[N, K]`.

        They are the zeros in dense tiles, and those of a group in a pruned tile beyond what its kind zeroes.
        """
        return self.mask.keep() & ~kept


def mosaic_of(
    kept: NDArray[np.bool_],
    tile: tuple[int, int],
    free: NDArray[np.bool_] | None = None,
    kinds: Sequence[TileKind] = (TWO_FOUR,),
) -> Mosaic:
    """Returns the hybrid mask of a published mask `[N, K]`. A tile gets the tightest of the kinds that holds it.

    A kind holds a tile if no group has more than `kind.kept` weights that are not zero: two of each 4 for 2:4. The tightest
    one takes the fewest bytes, and of equal ones 2:4. A group with more zeros than its kind keeps first the weights that are
    not zero, then free weights, then the lower position.

    free: bool `[N, K]`, True for weights that are zero in the model, which can be kept without any effect.
    """
    preference = kept.view(np.uint8) if free is None else 2 * kept.view(np.uint8) + free.view(np.uint8)
    shape = (kept.shape[0], kept.shape[1])
    zeros = zeros_per_group(kept)
    dense_groups = tile_sums(zeros < 2, tile)
    chosen = np.full(dense_groups.shape, DENSE.code, np.uint8)
    for kind in by_tightness(kinds):
        chosen[_holds(kind, kept, tile)] = kind.code
    codes = {
        family.name: family.best(preference, kept_per_group(chosen, shape, tile, family.name))
        for family in families_of(kinds)
    }
    mask = LinearMask.from_codes(shape, tile, chosen, codes)
    groups = tile_weights(shape, tile) // GROUP
    nearly = (
        (chosen == DENSE.code)
        & (dense_groups > 0)
        & (dense_groups <= (1 - _NEARLY) * groups)
        & (groups >= _LARGE)
    )
    return Mosaic(mask, int(zeros.sum(dtype=np.int64)), int(nearly.sum()))


def by_tightness(kinds: Iterable[TileKind]) -> list[TileKind]:
    """Returns the kinds from the one that takes most bytes to the tightest; of those that take equal bytes 2:4 is last."""
    return sorted(kinds, key=lambda one: (-one.bytes_per_weight, -one.code))


def _holds(kind: TileKind, kept: NDArray[np.bool_], tile: tuple[int, int]) -> NDArray[np.bool_]:
    """Returns the tiles whose groups all keep at most what the kind keeps, bool `[grid]`."""
    if kind is TWO_FOUR:
        over = zeros_per_group(kept) < TWO_FOUR.group - TWO_FOUR.kept
        return np.asarray(tile_sums(over, tile) == 0)
    assert kind.family is not None
    over = kind.family.groups(kept.view(np.uint8)).sum(-1, dtype=np.uint8) > kind.kept
    # A tile has as many groups of 16 in a row as one with a quarter of its columns has groups of 4.
    narrower = tile[0], tile[1] * GROUP // kind.group
    return np.asarray(tile_sums(over, narrower) == 0)


def zeros_per_group(kept: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Returns the number of pruned weights of each 4 consecutive k, uint8 `[N, K/4]`; kept: bool `[N, K]`."""
    quarters = kept.view(np.uint8).reshape(kept.shape[0], -1, GROUP)
    # The four columns are added, because a sum over an axis of length 4 is ten times slower.
    zeros: NDArray[np.uint8] = GROUP - (
        quarters[..., 0] + quarters[..., 1] + quarters[..., 2] + quarters[..., 3]
    )
    return zeros
