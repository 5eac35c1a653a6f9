"""Infers tile sizes and kinds of tiles from the weights that a published checkpoint or mask keeps, and says how the zeros of
a weight lie: as 2:4, as another pattern that looks like it, or anywhere."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from masklearn.masks.kinds.base import BYTES_DENSE, TileKind
from masklearn.masks.kinds.table import DENSE, TWO_FOUR, families_of
from masklearn.masks.linear_mask import LinearMask, kept_per_group
from masklearn.masks.tiles import GROUP, expand_tiles, tile_sums, tile_weights
from masklearn.model.checkpoint import Checkpoint
from masklearn.model.naming import from_stored
from masklearn.options import DEFAULT_TILE

# For each dtype the unsigned type of its size, and the bits of infinity. The bits of NaN are larger.
_BITS: dict[str, tuple[type[np.unsignedinteger[Any]], int]] = {
    "float16": (np.uint16, 0x7C00),
    "bfloat16": (np.uint16, 0x7F80),
    "float32": (np.uint32, 0x7F80_0000),
    "float64": (np.uint64, 0x7FF0_0000_0000_0000),
}


def nonzero_of(values: NDArray[Any]) -> NDArray[np.bool_] | None:
    """Returns a bool array of the shape of an array of floats, False for 0.0 and -0.0; None if a value is not finite.

    It compares bits without the sign, which needs no fp32 copy.
    """
    word, infinity = _BITS[values.dtype.name]
    magnitude = values.view(word) & word(np.iinfo(word).max >> 1)
    present: NDArray[np.bool_] = magnitude != 0
    return present if int(magnitude.max()) < infinity else None


def nonzero(checkpoint: Checkpoint, name: str) -> NDArray[np.bool_]:
    """Returns `nonzero_of` a tensor, in the checkpoint's layout. Raises MaskLearnError if a weight is not finite."""
    present = nonzero_of(checkpoint.read(name))
    if present is None:
        checkpoint.read_finite(name)  # raises the error, with the number of weights that are not finite
    assert present is not None
    return present


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

        They are the zeros in dense tiles, and in pruned tiles the zeros of a group that exceed the number for its kind.
        """
        return self.mask.keep() & ~kept


def mosaic_of(
    kept: NDArray[np.bool_],
    tile: tuple[int, int],
    free: NDArray[np.bool_] | None = None,
    kinds: Sequence[TileKind] = (TWO_FOUR,),
) -> Mosaic:
    """Returns the hybrid mask of a published mask `[N, K]`. A tile gets the tightest kind that holds it.

    A kind holds a tile if no group has more than `kind.kept` weights that are not zero: two of each 4 for 2:4. The tightest
    kind takes the fewest bytes; 2:4 wins over another kind with equal bytes. A group with more zeros than its kind keeps
    first the weights that are not zero, then free weights, then the lower position.

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
    """Returns the kinds by falling bytes, so that the tightest is last. Among kinds with equal bytes 2:4 is last."""
    return sorted(kinds, key=lambda kind: (-kind.bytes_per_weight, -kind.code))


def _holds(kind: TileKind, kept: NDArray[np.bool_], tile: tuple[int, int]) -> NDArray[np.bool_]:
    """Returns the tiles whose groups all keep at most as many weights as the kind, bool `[grid]`."""
    if kind is TWO_FOUR:
        over = zeros_per_group(kept) < TWO_FOUR.group - TWO_FOUR.kept
        return np.asarray(tile_sums(over, tile) == 0)
    assert kind.family is not None
    over = kind.family.groups(kept.view(np.uint8)).sum(-1, dtype=np.uint8) > kind.kept
    # A row of a tile has as many groups of 16 as a row of a quarter of the columns has groups of 4.
    narrower = tile[0], tile[1] * GROUP // kind.group
    return np.asarray(tile_sums(over, narrower) == 0)


def zeros_per_group(kept: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Returns the number of pruned weights of each 4 consecutive k, uint8 `[N, K/4]`; kept: bool `[N, K]`."""
    # A group's four bytes are 0 or 1, so they have as many bits as the group has weights.
    zeros: NDArray[np.uint8] = GROUP - np.bitwise_count(np.ascontiguousarray(kept).view(np.uint32))
    return zeros


# (rows, columns); None stands for all rows or columns of a linear.
TileSize = tuple[int | None, int | None]

_SIDES: tuple[int | None, ...] = (4, 8, 16, 32, 64, 96, 128, 192, 256, None)
_WHOLE = 2**20  # stands for None where sizes are compared
LOSS = 1e-3  # share of the saved bytes that a tile size may lose: zeros from before pruning look like tiles
LEAST = 1e-2  # least share of the weights that must be pruned, as if 2:4; less may be chance


def tile_of(size: TileSize, shape: tuple[int, int]) -> tuple[int, int]:
    """Returns (rows, columns) of the tiles of a linear of shape (N, K)."""
    return size[0] or shape[0], size[1] or shape[1]


def tile_sizes(smallest: int) -> list[TileSize]:
    """Returns all tile sizes by falling area; among equal areas, sizes nearer to a square come first."""

    def order(size: TileSize) -> tuple[int, int]:
        rows, columns = (side or _WHOLE for side in size)
        return -rows * columns, abs(rows - columns)

    sides = [side for side in _SIDES if side is None or side >= smallest]
    return sorted(product(sides, sides), key=order)


def cell_sums(cells: NDArray[np.float64], rows: int, columns: int) -> NDArray[np.float64]:
    """Sum blocks of rows x columns cells; the last blocks may be smaller."""
    down = np.add.reduceat(cells, np.arange(0, cells.shape[0], rows), axis=0)
    sums: NDArray[np.float64] = np.add.reduceat(down, np.arange(0, cells.shape[1], columns), axis=1)
    return sums


class TileSearch:
    """Takes one mask after another, and counts the bytes that its tiles save at each tile size.

    kinds: kinds that the tiles of each linear may have; smallest: side of the smallest tile. Memory: one number per
    `smallest` x `smallest` block of one linear.
    """

    def __init__(self, kinds: Mapping[str, Sequence[TileKind]], smallest: int) -> None:
        self.kinds = kinds
        self.smallest = smallest
        self.weights = 0
        self.saved: dict[TileSize, float] = dict.fromkeys(tile_sizes(smallest), 0.0)

    def add(self, name: str, kept: NDArray[np.bool_]) -> None:
        """Count the bytes that a linear's tiles save. kept: bool `[N, K]`, True = kept.

        Groups of 4 without any weight count as nothing, because a dense tile may have dead rows.
        """
        cell = self.smallest, self.smallest
        zeros = zeros_per_group(kept)
        alive = tile_sums(zeros < GROUP, cell).astype(np.float64) * GROUP
        most = {
            kind.family.name: _most_kept(kind, kept, zeros, self.smallest)
            for kind in self.kinds[name]
            if kind.family
        }
        self.weights += kept.size
        for size in self.saved:
            rows, columns = (
                length if side is None else side // self.smallest
                for side, length in zip(size, alive.shape, strict=True)
            )
            held = np.zeros(cell_sums(alive, rows, columns).shape)
            for kind in by_tightness(self.kinds[name]):
                if size[1] is not None and not kind.fits(size[1]):
                    continue
                assert kind.family is not None
                wider = columns * self.smallest // max(self.smallest, kind.span)
                held[block_maxima(most[kind.family.name], rows, max(wider, 1)) <= kind.kept] = (
                    BYTES_DENSE - kind.bytes_per_weight
                )
            self.saved[size] += float((held * cell_sums(alive, rows, columns)).sum())

    def result(self) -> TileSize | None:
        """Returns the tile size, 128x128 if every size fits, or None if hardly any tile is pruned."""
        most = max(self.saved.values())
        if most < LEAST * self.weights * (BYTES_DENSE - TWO_FOUR.bytes_per_weight):
            return None
        fit = [size for size, saved in self.saved.items() if saved >= most * (1 - LOSS)]
        return DEFAULT_TILE if fit[0] == (None, None) else fit[0]


def _most_kept(
    kind: TileKind, kept: NDArray[np.bool_], zeros: NDArray[np.uint8], smallest: int
) -> NDArray[np.uint8]:
    """Returns the most weights that a group keeps, in each block of `smallest` rows and of as many columns or one span."""
    if kind is TWO_FOUR:
        groups, across = np.uint8(GROUP) - zeros, smallest // GROUP
    else:
        assert kind.family is not None
        groups = kind.family.groups(kept.view(np.uint8)).sum(-1, dtype=np.uint8)
        across = max(smallest, kind.span) // kind.group
    return block_maxima(groups, smallest, across)


def block_maxima(cells: NDArray[np.uint8], rows: int, columns: int) -> NDArray[np.uint8]:
    """Returns the maximum of each block of rows x columns cells; the last blocks may be smaller."""
    down = np.maximum.reduceat(cells, np.arange(0, cells.shape[0], rows), axis=0)
    most: NDArray[np.uint8] = np.maximum.reduceat(down, np.arange(0, cells.shape[1], columns), axis=1)
    return most


_PACKED_SIDES = 128, 64  # of tiles: the compiler packs blocks of so many rows and 64 columns
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
        for side in _PACKED_SIDES
    }
    side = max(held, key=held.__getitem__)  # the larger of equals

    def described(pattern: Pattern, over: int = count, groups: int = groups) -> Zeros:
        return Zeros(pattern, share, over, groups, held[side], side)

    if not count:
        return described(Pattern.TWO_FOUR)
    # Groups that training has changed lie everywhere; dense tiles have many in a few places.
    if count < _few(share) * groups * (1.0 - held[side]):
        return described(Pattern.NEARLY)
    if held[side] >= LEAST:
        return described(Pattern.TILES)
    if share < _PRUNED:
        return described(Pattern.DENSE)
    rows = kept.view(np.uint8)[: kept.shape[0] // GROUP * GROUP].reshape(-1, GROUP, kept.shape[1])
    down = rows[:, 0] + rows[:, 1] + rows[:, 2] + rows[:, 3] > 2
    if (count := int(np.count_nonzero(down))) < _few(share) * down.size:
        return described(Pattern.ALONG_N, count, down.size)
    pairs = np.ascontiguousarray(kept[:, : kept.shape[1] // 8 * 8]).view(np.uint16) != 0
    paired = zeros_per_group(pairs) < 2
    if (count := int(np.count_nonzero(paired))) < _few(share * share) * paired.size:
        return described(Pattern.PAIRS, count, paired.size)
    return described(Pattern.NONE)


def _few(zeros: float) -> float:
    """Returns the share of groups of 4 up to which a pattern holds nearly. zeros: share of zeros among what is grouped."""
    kept = 1.0 - zeros
    return _FEW * (4 * kept**3 * zeros + kept**4)


def read_zeros(checkpoint: Checkpoint, linear: str) -> Zeros:
    """Read the weight of a linear, and describe its zeros. Raises MaskLearnError if a weight is not finite."""
    weight = f"{linear}.weight"
    return zeros_of(from_stored(checkpoint, weight, nonzero(checkpoint, weight)))
