"""Says how the zeros of a weight lie: as 2:4, as another pattern that looks like it, or anywhere."""

from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from masklearn.importers.inference import LEAST, block_maxima, nonzero, zeros_per_group
from masklearn.masks.tiles import GROUP, tile_weights
from masklearn.model.checkpoint import Checkpoint
from masklearn.model.naming import from_stored

_SIDES = 128, 64  # of tiles: the compiler packs blocks of so many rows and 64 columns
_PRUNED = 0.25  # share of zeros that only pruning leaves: int4 rounds up to 0.23 of dense weights to zero, bf16 0.07
_FEW = 0.1  # of the groups that would keep too many weights if the zeros lay anywhere


class Pattern(StrEnum):
    """How the zeros of a weight [N, K] lie. The value is what a person is shown."""

    DENSE = "dense"
    TWO_FOUR = "2:4"
    NEARLY = "nearly 2:4"
    TILES = "2:4 in part of the tiles"
    ALONG_N = "2:4 along N"
    PAIRS = "2:4 of pairs"
    NONE = "zeros without a pattern"


@dataclass(frozen=True)
class Zeros:
    """The zeros of a weight.

    zeros: their share of the weights. over: of so many `groups`, those that keep more than the pattern allows: groups of 4
    neighbours along K, along N for ALONG_N, of 4 pairs for PAIRS. tiles: share of the weights that lie in tiles of `side`
    rows and columns without such a group along K. side: 128, or 64 if such tiles hold more.
    """

    pattern: Pattern
    zeros: float
    over: int
    groups: int
    tiles: float
    side: int


def zeros_of(kept: NDArray[np.bool_]) -> Zeros:
    """Describe the zeros of a weight. kept: bool `[N, K]`, K a multiple of 4; False for a zero.

    A pattern holds nearly if less than a tenth as many groups keep too many weights as in a weight whose zeros lie anywhere.
    """
    kept = np.ascontiguousarray(kept)
    shape = kept.shape[0], kept.shape[1]
    share = 1.0 - int(np.count_nonzero(kept)) / kept.size
    over = zeros_per_group(kept) < 2
    count, groups = int(np.count_nonzero(over)), over.size
    packed = np.packbits(over, axis=1)  # a byte for 32 columns
    held = {
        side: float(
            tile_weights(shape, (side, side))[block_maxima(packed, side, side // 32) == 0].sum() / kept.size
        )
        for side in _SIDES
    }
    side = max(held, key=lambda one: held[one])  # the larger of equals

    def found(pattern: Pattern, over: int = count, groups: int = groups) -> Zeros:
        return Zeros(pattern, share, over, groups, held[side], side)

    if not count:
        return found(Pattern.TWO_FOUR)
    # Groups that training has changed lie everywhere; dense tiles have many in a few places.
    if count < _few(share) * groups * (1.0 - held[side]):
        return found(Pattern.NEARLY)
    if held[side] >= LEAST:
        return found(Pattern.TILES)
    if share < _PRUNED:
        return found(Pattern.DENSE)
    rows = kept.view(np.uint8)[: kept.shape[0] // GROUP * GROUP].reshape(-1, GROUP, kept.shape[1])
    down = rows[:, 0] + rows[:, 1] + rows[:, 2] + rows[:, 3] > 2
    if (count := int(np.count_nonzero(down))) < _few(share) * down.size:
        return found(Pattern.ALONG_N, count, down.size)
    pairs = np.ascontiguousarray(kept[:, : kept.shape[1] // 8 * 8]).view(np.uint16) != 0
    paired = zeros_per_group(pairs) < 2
    if (count := int(np.count_nonzero(paired))) < _few(share * share) * paired.size:
        return found(Pattern.PAIRS, count, paired.size)
    return found(Pattern.NONE)


def _few(zeros: float) -> float:
    """Returns the share of groups of 4 up to which a pattern holds nearly. zeros: share of zeros among what is grouped."""
    kept = 1.0 - zeros
    return _FEW * (4 * kept**3 * zeros + kept**4)


def read_zeros(checkpoint: Checkpoint, linear: str) -> Zeros:
    """Read the weight of a linear, and describe its zeros. Raises MaskLearnError if a weight is not finite."""
    weight = f"{linear}.weight"
    return zeros_of(from_stored(checkpoint, weight, nonzero(checkpoint, weight)))
