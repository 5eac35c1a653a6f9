"""Masks with the tiles that a plan without masks assumes."""

from masklearn.masks.kinds.table import TWO_FOUR
from patch_compile.planning.planner import assumed_tiles
from patch_compile.planning.tile_map import unpatterned_mask


def assumed_mask(shape, tile, ratio, kinds=(TWO_FOUR,)):
    """A mask with the tiles of `assumed_tiles`. Every group keeps its first weights."""
    return unpatterned_mask(shape, tile, assumed_tiles(shape, tile, ratio, kinds).kinds)
