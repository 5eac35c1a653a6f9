import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from masklearn.importers.inference import DEFAULT_TILE, TileSearch, mosaic_of, tile_of
from masklearn.masks.kinds.table import PRUNED, TWO_FOUR
from masklearn.masks.tiles import expand_tiles
from tests.masklearn.importers import sources
from tests.mosaics import mosaic as random_mosaic


def search(keeps, smallest: int = 16, kinds=(TWO_FOUR,)):
    found = TileSearch({str(i): kinds for i in range(len(keeps))}, smallest)
    for i, keep in enumerate(keeps):
        found.add(str(i), keep)
    return found.result()


SHAPES = [(256, 320), (192, 256), (576, 192)]


@settings(max_examples=40)
@given(
    st.sampled_from([(16, 16), (32, 16), (16, 64), (64, 64), (96, 32), (64, 128)]),
    st.sampled_from([4, 8, 16]),
    st.floats(0.0, 0.05),
    st.integers(0, 10**6),
)
def test_the_size_that_was_pruned_with_is_found(tile, smallest, natural, seed) -> None:
    """A larger size that loses nothing may be found. The model has zeros of its own, and ragged tiles (576 = 4.5 x 128)."""
    rng = np.random.default_rng(seed)
    masks = [sources.mosaic(rng, shape, tile, 0.6) for shape in SHAPES]
    keeps = [mask.keep() & (rng.random(mask.shape) >= natural) for mask in masks]
    size = search(keeps, smallest)
    assert size is not None
    lost = 0
    for mask, keep in zip(masks, keeps, strict=True):
        found = mosaic_of(keep, tile_of(size, mask.shape)).sparse
        lost += int((expand_tiles(mask.tiles, mask.shape, tile) & ~found).sum())
        assert np.prod(tile_of(size, mask.shape)) >= min(np.prod(tile), mask.weights)
    assert lost <= 1e-3 * sum(mask.pattern.size for mask in masks)


@settings(max_examples=30)
@given(
    st.sampled_from([(16, 64), (64, 64), (96, 64), (32, 128), (64, 192), (128, 256)]),
    st.sampled_from([4, 16]),
    st.floats(0.0, 0.02),
    st.integers(0, 10**6),
)
def test_mixed_tile_sizes_are_inferred(tile, smallest, natural, seed) -> None:
    """Tiles of the found size take as few bytes as tiles of the size that was pruned with."""
    rng = np.random.default_rng(seed)
    masks = [random_mosaic(shape, tile, seed + i) for i, shape in enumerate(SHAPES)]
    keeps = [mask.keep() & (rng.random(mask.shape) >= natural) for mask in masks]
    kinds = tuple(PRUNED.values())
    size = search(keeps, smallest, kinds)
    assert size is not None
    found = [
        mosaic_of(keep, tile_of(size, mask.shape), kinds=kinds).mask
        for mask, keep in zip(masks, keeps, strict=True)
    ]
    assert _taken(found) <= _taken(masks) * (1 + 2e-3)
    assert np.prod([side or 10**4 for side in size]) >= np.prod(tile) or natural


def _taken(masks):
    return sum(kind.bytes_per_weight * count for mask in masks for kind, count in mask.by_kind().items())


@pytest.mark.parametrize("tile", [(128, 320), (256, 16)])
def test_tiles_of_the_whole_width_or_height(tile) -> None:
    rng = np.random.default_rng(0)
    shapes = [(256, 320), (256, 320)]
    size = search([sources.mosaic(rng, shape, tile).keep() for shape in shapes])
    assert size == ((128, None) if tile[0] == 128 else (None, 16))
    assert tile_of(size, (256, 320)) == tile


def test_uniform_linears_fit_any_tile_size() -> None:
    rng = np.random.default_rng(0)
    sparse = sources.mosaic(rng, (256, 256), (1000, 1000), 1.0).keep()
    assert search([sparse, np.ones((256, 256), np.bool_)]) == DEFAULT_TILE


@pytest.mark.parametrize("share", [0.0, 0.05, 0.2, 0.5, 0.6])
def test_zeros_without_structure_are_no_tiles(share: float) -> None:
    rng = np.random.default_rng(0)
    assert search([rng.random((512, 512)) >= share for _ in range(3)]) is None


def test_rows_that_are_all_zero_are_no_evidence() -> None:
    keep = np.ones((256, 256), np.bool_)
    keep[:64] = False
    assert search([keep]) is None


def test_chance_sparsity_does_not_shrink_the_tile() -> None:
    mask = sources.mosaic(np.random.default_rng(0), (2048, 2048), (128, 128))
    keep = mask.keep()
    row, column = 128 * np.argwhere(~mask.tiles)[0]
    keep[row : row + 16, column : column + 16] = np.tile([True, True, False, False], 4)
    assert search([keep]) == (128, 128)
