import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from masklearn.masks.tiles import (
    GROUP,
    WHOLE,
    check_tile,
    expand_tiles,
    grid_shape,
    parse_tile,
    sparse_groups,
    spell_tile,
    tile_sums,
    tile_weights,
)
from tests.refusals import refused

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
    with refused(ValueError):
        check_tile(shape, tile)


@pytest.mark.parametrize(
    ("text", "tile"),
    [("128x128", (128, 128)), ("1x4", (1, 4)), ("128x*", (128, WHOLE)), ("*x64", (WHOLE, 64)), ("*x*", (WHOLE, WHOLE))],
)  # fmt: skip
def test_a_tile_is_spelled_as_rows_x_columns(text, tile):
    assert parse_tile(text) == tile
    assert spell_tile(tile) == text
    assert parse_tile(text.upper()) == tile


@pytest.mark.parametrize(
    "text", ["128", "128x", "x128", "0x128", "128x0", "128x6", "1x4x4", "-1x4", "ax4", "**x4", "²x4"]
)
def test_text_that_is_no_tile_is_refused(text):
    with refused(ValueError):
        parse_tile(text)


def test_a_whole_tile_cuts_no_group():
    assert WHOLE % GROUP == 0
    check_tile((300, 72), (128, WHOLE))
    assert grid_shape((300, 72), (128, WHOLE)) == (3, 1)
    assert grid_shape((300, 72), (WHOLE, WHOLE)) == (1, 1)
