"""Masks for tests of training: every second tile is 2:4 and keeps the larger two of four."""

import numpy as np

from masklearn.masks.linear_mask import LinearMask
from masklearn.masks.nm_codes import patterns_from_scores
from masklearn.masks.tiles import grid_shape
from masklearn.model.checkpoint import Checkpoint
from masklearn.model.coverage import covered_linears_of
from masklearn.model.linears import read_linear

TILE = (32, 32)


def magnitude_masks(checkpoint: Checkpoint, include: tuple[str, ...] = ()) -> dict[str, LinearMask]:
    masks = {}
    for name, shape in covered_linears_of(checkpoint, include).linears.items():
        tiles = np.indices(grid_shape(shape, TILE)).sum(axis=0) % 2 == 0
        pattern = patterns_from_scores(np.abs(read_linear(checkpoint, name).numpy()))
        masks[name] = LinearMask.from_candidate(TILE, tiles, pattern)
    return masks
