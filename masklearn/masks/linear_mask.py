"""Hybrid mask of a linear."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from masklearn.masks.kinds.base import Family, TileKind
from masklearn.masks.kinds.table import BY_CODE, DENSE, FAMILIES, PRUNED, TWO_FOUR
from masklearn.masks.tiles import GROUP, check_tile, expand_tiles, grid_shape, sparse_groups, tile_weights

_TWO_OF_FOUR, _OF_SIXTEEN, _OF_EIGHT = FAMILIES["2:4"], FAMILIES["n:16"], FAMILIES["6:8"]


@dataclass(frozen=True, eq=False)
class LinearMask:
    """Kinds of a linear's tiles, and which weights every group of its pruned tiles keeps.

    shape: (N, K); tile: (rows, cols), cols % 4 == 0; tiles: bool `[ceil(N/rows), ceil(K/cols)]`, True =
    2:4; pattern: uint8 codes 0..5 `[n]`, one per group of 4 in the 2:4 tiles, row-major over the
    `[N, K/4]` grid of groups; others: uint8 codes of kinds `[grid]` of tiles that are not 2:4, None if these tiles are all
    dense; mask16: uint16 `[m]`, one per group of 16 in the n:16 tiles, row-major over the `[N, K/16]` grid of groups;
    mask8: uint8 `[m]`, one per group of 8 in the 6:8 tiles, row-major over the `[N, K/8]` grid of groups. `kinds.families`
    has the meaning of codes. Raises ValueError if these do not fit together.
    """

    shape: tuple[int, int]
    tile: tuple[int, int]
    tiles: NDArray[np.bool_]
    pattern: NDArray[np.uint8]
    others: NDArray[np.uint8] | None = None
    mask16: NDArray[np.uint16] = field(default_factory=lambda: np.zeros(0, np.uint16))
    mask8: NDArray[np.uint8] = field(default_factory=lambda: np.zeros(0, np.uint8))

    def __post_init__(self) -> None:
        check_tile(self.shape, self.tile)
        if self.tiles.dtype != np.bool_ or self.tiles.shape != grid_shape(self.shape, self.tile):
            raise ValueError(f"tile map {self.tiles.dtype} {self.tiles.shape} for shape {self.shape}")
        groups = sparse_groups(self.tiles, self.shape, self.tile)
        if self.pattern.dtype != np.uint8 or self.pattern.shape != (groups,):
            raise ValueError(f"pattern {self.pattern.dtype} {self.pattern.shape}, {groups} groups are sparse")
        _TWO_OF_FOUR.check(self.pattern, np.zeros(0, np.uint8))
        self._check_others()

    def _check_others(self) -> None:
        if self.others is not None:
            if self.others.dtype != np.uint8 or self.others.shape != self.tiles.shape:
                raise ValueError(
                    f"kinds {self.others.dtype} {self.others.shape} for {self.tiles.shape} tiles"
                )
            if bool((self.others[self.tiles] != DENSE.code).any()):
                raise ValueError("a 2:4 tile has another kind too")
            if bool((self.others == TWO_FOUR.code).any()):
                raise ValueError("a tile is 2:4 among the kinds that are not")
            check_kinds(self.others, self.shape, self.tile)
        for family, name in ((_OF_SIXTEEN, "mask16"), (_OF_EIGHT, "mask8")):
            codes, expected = getattr(self, name), np.zeros(0, np.uint8)
            if self.others is not None:
                counts = kept_per_group(self.others, self.shape, self.tile, family.name)
                expected = counts[counts < family.group]
            if codes.dtype != family.stored or codes.shape != expected.shape:
                raise ValueError(
                    f"{name} {codes.dtype} {codes.shape}, {expected.size} groups are {family.name}"
                )
            family.check(codes, expected)

    @classmethod
    def from_candidate(
        cls, tile: tuple[int, int], tiles: NDArray[np.bool_], pattern: NDArray[np.uint8]
    ) -> "LinearMask":
        """Makes a mask from a tile map and the patterns of all groups, `[N, K/4]`, in dense tiles too."""
        shape = (pattern.shape[0], pattern.shape[1] * GROUP)
        return cls(shape, tile, tiles, pattern[expand_tiles(tiles, shape, tile)])

    @classmethod
    def from_codes(
        cls,
        shape: tuple[int, int],
        tile: tuple[int, int],
        kinds: NDArray[np.uint8],
        codes: Mapping[str, NDArray[Any]],
    ) -> "LinearMask":
        """Makes a mask from kinds of tiles, and codes of all groups by family, `[N, K/group]`, in other tiles too.

        kinds: uint8 codes of kinds `[grid]`; codes: by name of the family, for every family among the kinds.
        """
        tiles = kinds == TWO_FOUR.code
        own: dict[Family, NDArray[Any]] = {}
        for family in FAMILIES.values():
            pruned, own[family] = tiles_of(kinds, family), np.zeros(0, family.stored)
            if pruned.any():
                own[family] = codes[family.name][expand_tiles(pruned, shape, tile, family.group)].astype(
                    family.stored
                )
        others = np.where(tiles, np.uint8(DENSE.code), kinds)
        if not others.any():
            return cls(shape, tile, tiles, own[_TWO_OF_FOUR])
        return cls(shape, tile, tiles, own[_TWO_OF_FOUR], others, own[_OF_SIXTEEN], own[_OF_EIGHT])

    @cached_property
    def kinds(self) -> NDArray[np.uint8]:
        """Codes of the kinds of all tiles, `[grid]`; see `kinds.table`."""
        return kinds_of_tiles(self.tiles, self.others)

    def keep(self) -> NDArray[np.bool_]:
        """Returns the mask of the weight, bool `[N, K]`: True = kept."""
        rows, columns = self.shape
        patterns = np.full((rows, columns // GROUP, GROUP), True)
        where = expand_tiles(self.tiles, self.shape, self.tile)
        words = patterns.view(np.uint32)[..., 0]
        words[where] = _TWO_OF_FOUR.keep(self.pattern).view(np.uint32)
        keep = patterns.reshape(rows, columns)
        if self.mask16.size:
            keep &= _OF_SIXTEEN.keep(self.masks_of_sixteen())
        if self.mask8.size:
            keep &= _OF_EIGHT.keep(self.masks_of_eight())
        return keep

    def masks_of_sixteen(self) -> NDArray[np.uint16]:
        """Returns the code of every group of 16, `[N, ⌊K/16⌋]`: all bits outside the n:16 tiles."""
        return self._of_all_groups(_OF_SIXTEEN, self.mask16)

    def masks_of_eight(self) -> NDArray[np.uint8]:
        """Returns the code of every group of 8, `[N, ⌊K/8⌋]`: all bits outside the 6:8 tiles."""
        return self._of_all_groups(_OF_EIGHT, self.mask8)

    def _of_all_groups(self, family: Family, stored: NDArray[Any]) -> NDArray[Any]:
        rows, columns = self.shape
        codes = np.full((rows, columns // family.group), np.iinfo(stored.dtype).max, stored.dtype)
        if stored.size:
            codes[expand_tiles(tiles_of(self.kinds, family), self.shape, self.tile, family.group)] = stored
        return codes

    @property
    def weights(self) -> int:
        return self.shape[0] * self.shape[1]

    @property
    def zeroed(self) -> int:
        """Number of weights zeroed by pattern: half of the weights in 2:4 tiles, for example, whatever other weights are
        zero."""
        return zeroed_weights(self.kinds, self.shape, self.tile)

    def by_kind(self) -> dict[TileKind, int]:
        """Returns the number of weights in tiles of each kind that the linear has, in the table's order."""
        return weights_by_kind(self.kinds, self.shape, self.tile)


def kinds_of_tiles(tiles: NDArray[np.bool_], others: NDArray[np.uint8] | None) -> NDArray[np.uint8]:
    """Returns the codes of the kinds of all tiles, `[grid]`. For the arguments see `LinearMask`."""
    return tiles.astype(np.uint8) if others is None else others + tiles


def tiles_of(kinds: NDArray[np.uint8], family: Family) -> NDArray[np.bool_]:
    """Returns True for tiles whose kind is of the family, bool `[grid]`; kinds: codes `[grid]`."""
    ours = [kind.code for kind in PRUNED.values() if kind.family is family]
    return np.isin(kinds, ours)


def weights_by_kind(
    kinds: NDArray[np.uint8], shape: tuple[int, int], tile: tuple[int, int]
) -> dict[TileKind, int]:
    """Returns the number of weights in tiles of each kind; kinds: codes `[grid]`."""
    areas = tile_weights(shape, tile)
    counts = {kind: int(areas[kinds == kind.code].sum()) for kind in BY_CODE.values()}
    return {kind: count for kind, count in counts.items() if count}


def zeroed_weights(kinds: NDArray[np.uint8], shape: tuple[int, int], tile: tuple[int, int]) -> int:
    """Returns the number of weights that tiles of these kinds zero; kinds: codes `[grid]`."""
    weights = weights_by_kind(kinds, shape, tile)
    return sum(count // kind.group * (kind.group - kind.kept) for kind, count in weights.items())


def kept_per_group(
    kinds: NDArray[np.uint8], shape: tuple[int, int], tile: tuple[int, int], family: str
) -> NDArray[np.uint8]:
    """Returns the weights that each group of a family keeps, `[N, K/group]`; all of them in tiles of other kinds."""
    ours = FAMILIES[family]
    counts = np.full(max(BY_CODE) + 1, ours.group, np.uint8)
    for kind in PRUNED.values():
        if kind.family is ours:
            counts[kind.code] = kind.kept
    return expand_tiles(counts[kinds], shape, tile, ours.group)


def check_kinds(kinds: NDArray[np.uint8], shape: tuple[int, int], tile: tuple[int, int]) -> None:
    """Raises ValueError for a code of no kind, or a kind whose groups the tiles would cut; kinds: codes `[grid]`."""
    for code in np.unique(kinds).tolist():
        if code not in BY_CODE:
            raise ValueError(f"kind {code} is not in the table of kinds")
        kind = BY_CODE[code]
        if not kind.fits_tiles(shape[1], tile[1]):
            raise ValueError(
                f"{kind} needs K and the columns of a tile to be multiples of {kind.span}, "
                f"they are {shape[1]} and {tile[1]}"
            )
