import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from masklearn.masks.tiles import check_tile, expand_tiles, grid_shape, sparse_groups, tile_sums, tile_weights

SHAPES = st.tuples(st.integers(1, 40), st.integers(1, 12).map(lambda g: 4 * g))
TILES = st.tuples(st.integers(1, 20), st.integers(1, 5).map(lambda g: 4 * g))


def tile_of(n: int, k: int, tile: tuple[int, int]) -> tuple[int, int]:
    return n // tile[0], k // tile[1]


@given(SHAPES, TILES)
def test_weights_count_every_weight_in_its_tile(shape: tuple[int, int], tile: tuple[int, int]) -> None:
    expected = np.zeros(grid_shape(shape, tile), np.int64)
    for n in range(shape[0]):
        for k in range(shape[1]):
            expected[tile_of(n, k, tile)] += 1
    np.testing.assert_array_equal(tile_weights(shape, tile), expected)
    assert tile_weights(shape, tile).sum() == shape[0] * shape[1]


@given(SHAPES, TILES, st.randoms(use_true_random=False))
def test_expanded_map_follows_the_tile_of_each_group(shape, tile, random) -> None:
    grid = grid_shape(shape, tile)
    tiles = np.asarray([[random.random() < 0.5 for _ in range(grid[1])] for _ in range(grid[0])])
    groups = expand_tiles(tiles, shape, tile)
    assert groups.shape == (shape[0], shape[1] // 4)
    assert all(groups[n, g] == tiles[tile_of(n, 4 * g, tile)] for n, g in np.ndindex(groups.shape))
    assert sparse_groups(tiles, shape, tile) == groups.sum()


@given(SHAPES, TILES, st.integers(0, 2**32 - 1))
def test_sums_over_tiles(shape: tuple[int, int], tile: tuple[int, int], seed: int) -> None:
    values = np.random.default_rng(seed).integers(0, 100, (shape[0], shape[1] // 4)).astype(np.float32)
    expected = np.zeros(grid_shape(shape, tile))
    for n, g in np.ndindex(values.shape):
        expected[tile_of(n, 4 * g, tile)] += values[n, g]
    np.testing.assert_array_equal(tile_sums(values, tile), expected)


@pytest.mark.parametrize(
    ("shape", "tile"),
    [((8, 8), (0, 4)), ((8, 8), (4, 6)), ((8, 8), (4, 0)), ((8, 6), (4, 4)), ((0, 8), (4, 4))],
)
def test_tiles_that_cut_a_group_are_refused(shape: tuple[int, int], tile: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=r"tile|shape"):
        check_tile(shape, tile)
