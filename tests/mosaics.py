"""Random linears with random hybrid masks, and W∘M computed without the code under test."""

import numpy as np
from hypothesis import strategies as st

from masklearn.masks.kinds.table import FAMILIES, KINDS, PRUNED
from masklearn.masks.linear_mask import LinearMask
from masklearn.quant.grid import Grid, storable
from masklearn.quant.table import FLOAT16

KEPT = np.array([[1, 1, 0, 0], [1, 0, 1, 0], [1, 0, 0, 1], [0, 1, 1, 0], [0, 1, 0, 1], [0, 0, 1, 1]], bool)


def random_mask(shape, tile, sparse_share, seed):
    rng = np.random.default_rng(seed)
    rows, columns = shape
    grid = -(-rows // tile[0]), -(-columns // tile[1])
    tiles = rng.random(grid) < sparse_share
    pattern = rng.integers(0, 6, (rows, columns // 4)).astype(np.uint8)
    return LinearMask.from_candidate(tile, tiles, pattern), pattern


IN_16_BITS = tuple(kind for kind in KINDS if kind.goes_with(FLOAT16))
"""Kinds of tiles that multiply inputs of 16 bits."""


def mosaic(shape, tile, seed, kinds=IN_16_BITS):
    """A mask with tiles of these kinds, and random patterns."""
    rng = np.random.default_rng(seed)
    grid = tuple(-(-size // step) for size, step in zip(shape, tile, strict=True))
    codes = np.array([kind.code for kind in kinds], np.uint8)[rng.integers(0, len(kinds), grid)]
    scores, patterns = rng.random(shape), {}
    kept = np.full(max(kind.code for kind in KINDS) + 1, 16)
    for kind in PRUNED.values():
        if kind.family is FAMILIES["n:16"]:
            kept[kind.code] = kind.kept
    by_weight = kept[codes].repeat(tile[0], 0).repeat(tile[1], 1)[: shape[0], : shape[1]]
    if shape[1] % 64 == 0:
        groups = by_weight.reshape(shape[0], -1, 64)[:, :, 0].repeat(4, 1)
        patterns["n:16"] = FAMILIES["n:16"].best(scores, groups)
    if shape[1] % 8 == 0:
        patterns["6:8"] = FAMILIES["6:8"].best(scores, 6)
    patterns["2:4"] = FAMILIES["2:4"].best(scores, 2)
    return LinearMask.from_codes(shape, tile, codes, patterns)


def random_grid(shape, weights, seed):
    """Integers `[N, K]` of a weight type, among them the lowest and the highest, and a grid with random scales of both
    signs."""
    rng = np.random.default_rng(seed)
    integers = rng.integers(weights.lowest, weights.highest + 1, shape).astype(np.int8)
    scales = rng.lognormal(-5, 1, weights.scales_shape(shape)).astype(np.float32)
    scales *= rng.choice([-1, 1], scales.shape).astype(np.float32)
    return integers, Grid(weights, scales if weights.span is None else storable(scales))


def random_weight(shape, dtype, seed):
    weight = (np.random.default_rng(seed).standard_normal(shape) * 0.05).astype(dtype)
    weight.flat[:: max(1, weight.size // 7)] = -0.0
    return weight


def masked_by_hand(weight, mask, pattern):
    """W∘M element by element, by the definition of the tile map and the pattern."""
    out = weight.copy()
    for n in range(weight.shape[0]):
        for k in range(weight.shape[1]):
            if mask.tiles[n // mask.tile[0], k // mask.tile[1]] and not KEPT[pattern[n, k // 4], k % 4]:
                out[n, k] = 0
    return out


shapes = st.tuples(st.integers(1, 300), st.integers(1, 60).map(lambda groups: groups * 4))
tile_sizes = st.sampled_from(
    [(128, 128), (64, 64), (128, 64), (64, 256), (32, 32), (100, 20), (1, 4), (4096, 4096)]
)
