"""Masks with the tiles that a plan without masks assumes."""

import numpy as np

from masklearn.masks.kinds.table import BY_CODE, TWO_FOUR
from masklearn.masks.linear_mask import LinearMask
from masklearn.masks.tiles import expand_tiles
from patch_compile.planning.planner import assumed_tiles


def assumed_mask(shape, tile, ratio, kinds=(TWO_FOUR,)):
    """A mask with the tiles of `assumed_tiles`. Every group keeps its first weights."""
    return unpatterned_mask(shape, tile, assumed_tiles(shape, tile, ratio, kinds).kinds)


def unpatterned(linears, tile, kinds):
    """Masks of these linears, as `unpatterned_mask` makes them."""
    return {name: unpatterned_mask(shape, tile, kinds[name]) for name, shape in linears.items()}


def unpatterned_mask(shape, tile, kinds):
    """A mask with these kinds of tiles, codes `[grid]`. Every group keeps its first weights."""
    codes = {}
    for kind in (BY_CODE[int(code)] for code in np.unique(kinds) if BY_CODE[int(code)].family):
        stored = np.uint8 if kind is TWO_FOUR else kind.family.stored
        first = codes.setdefault(kind.family.name, np.zeros((shape[0], shape[1] // kind.group), stored))
        if kind is not TWO_FOUR:
            first[expand_tiles(kinds == kind.code, shape, tile, kind.group)] = (1 << kind.kept) - 1
    return LinearMask.from_codes(shape, tile, kinds.astype(np.uint8), codes)
