"""Masks that no method learned."""

from collections.abc import Mapping

import numpy as np

from masklearn.masks.linear_mask import LinearMask
from masklearn.masks.maskset import MaskSet
from masklearn.masks.nm_codes import patterns_from_scores
from masklearn.masks.tiles import grid_shape
from masklearn.model.checkpoint import Checkpoint
from masklearn.model.coverage import covered_linears_of
from masklearn.model.linears import read_linear
from tests.mosaics import random_mask


def set_of(masks: Mapping[str, LinearMask]) -> MaskSet:
    return MaskSet(dict(masks), method="random", seed=0, base_model="x", base_sha256="", ratio_asked=0.25)


def random_masks(
    linears: Mapping[str, tuple[int, int]], tile: tuple[int, int] = (32, 32), share: float = 0.5
) -> MaskSet:
    """Random masks of linears; share: of tiles that are 2:4."""
    return set_of(
        {name: random_mask(shape, tile, share, i)[0] for i, (name, shape) in enumerate(linears.items())}
    )


def magnitude_masks(checkpoint: Checkpoint, include: tuple[str, ...] = ()) -> dict[str, LinearMask]:
    """Every second tile is 2:4 and keeps the larger two of four."""
    masks, tile = {}, (32, 32)
    for name, shape in covered_linears_of(checkpoint, include).linears.items():
        tiles = np.indices(grid_shape(shape, tile)).sum(axis=0) % 2 == 0
        pattern = patterns_from_scores(np.abs(read_linear(checkpoint, name).numpy()))
        masks[name] = LinearMask.from_candidate(tile, tiles, pattern)
    return masks
