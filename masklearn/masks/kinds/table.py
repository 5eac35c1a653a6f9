"""The table of kinds of tiles. Everything that depends on the kind of a tile asks it.

| name | code | group | kept | bytes of a 16-bit weight |
|---|---|---|---|---|
| dense | 0 | – | all | 2 |
| 2:4 | 1 | 4 neighbours | 2 | 1.125 |
| n:16 | 2, 3 | 16 of a lane, see `OfSixteen` | n = 8, 12 | n/8 + .125 |
| 6:8 | 8 | 8 neighbours | 6 | 1.6875; of an 8-bit weight .9375, see `SixOfEight` |
"""

from collections.abc import Iterable, Mapping
from types import MappingProxyType

from masklearn.masks.kinds.base import Family, TileKind
from masklearn.masks.kinds.families import OfSixteen, SixOfEight, TwoOfFour

_TWO_OF_FOUR, _OF_SIXTEEN, _OF_EIGHT = TwoOfFour(), OfSixteen(), SixOfEight()

DENSE = TileKind("dense", 0, None, 1)
TWO_FOUR = TileKind("2:4", 1, _TWO_OF_FOUR, 2)

# Codes are in mask files, and never change.
KINDS: tuple[TileKind, ...] = (
    DENSE,
    TWO_FOUR,
    TileKind("8:16", 2, _OF_SIXTEEN, 8),
    TileKind("12:16", 3, _OF_SIXTEEN, 12),
    TileKind("6:8", 8, _OF_EIGHT, 6),
)

PRUNED: Mapping[str, TileKind] = MappingProxyType({kind.name: kind for kind in KINDS if kind is not DENSE})
"""Kinds that prune, by name."""

FAMILIES: Mapping[str, Family] = MappingProxyType(
    {one.name: one for one in (_TWO_OF_FOUR, _OF_SIXTEEN, _OF_EIGHT)}
)

BY_CODE: Mapping[int, TileKind] = MappingProxyType({kind.code: kind for kind in KINDS})


def kind_named(name: str) -> TileKind:
    """Returns the pruning kind with this name. Raises a ValueError of one line for another name."""
    try:
        return PRUNED[name]
    except KeyError:
        raise ValueError(f"There is no kind {name!r}. The kinds are {', '.join(PRUNED)}.") from None


def families_of(kinds: Iterable[TileKind]) -> tuple[Family, ...]:
    theirs = {kind.family for kind in kinds}
    return tuple(family for family in FAMILIES.values() if family in theirs)
