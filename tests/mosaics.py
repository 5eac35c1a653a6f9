"""Random linears with random hybrid masks, and W∘M computed without the code under test."""

import numpy as np
from hypothesis import strategies as st

from masklearn.masks.linear_mask import LinearMask

KEPT = np.array([[1, 1, 0, 0], [1, 0, 1, 0], [1, 0, 0, 1], [0, 1, 1, 0], [0, 1, 0, 1], [0, 0, 1, 1]], bool)


def random_mask(shape, tile, sparse_share, seed):
    rng = np.random.default_rng(seed)
    rows, columns = shape
    grid = -(-rows // tile[0]), -(-columns // tile[1])
    tiles = rng.random(grid) < sparse_share
    pattern = rng.integers(0, 6, (rows, columns // 4)).astype(np.uint8)
    return LinearMask.from_candidate(tile, tiles, pattern), pattern


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
