"""How the zeros of a weight lie: each pattern, and patterns that hold nearly."""

import numpy as np
import pytest
from numpy.typing import NDArray

from masklearn.importers.inference import Pattern, Zeros, zeros_of
from masklearn.masks.tiles import expand_tiles

SHAPE = 256, 512


def random(share: float) -> NDArray[np.bool_]:
    return np.random.default_rng(3).random(SHAPE) >= share


def two_four(shape: tuple[int, int] = SHAPE) -> NDArray[np.bool_]:
    order = np.random.default_rng(4).random((shape[0], shape[1] // 4, 4)).argsort(-1)
    return np.asarray((order < 2).reshape(shape))


def along_n() -> NDArray[np.bool_]:
    return two_four(SHAPE[::-1]).T


def pairs() -> NDArray[np.bool_]:
    return np.repeat(two_four((SHAPE[0], SHAPE[1] // 2)), 2, axis=1)


def tiles(side: int) -> NDArray[np.bool_]:
    """Every other tile of so many rows and columns is 2:4."""
    grid = np.indices((SHAPE[0] // side, SHAPE[1] // side)).sum(0) % 2 == 0
    return two_four() | np.repeat(expand_tiles(grid, SHAPE, (side, side)), 4, axis=1)


def regrown(kept: NDArray[np.bool_], count: int) -> NDArray[np.bool_]:
    """Bring all weights of so many groups of 4 along K back."""
    groups = np.ascontiguousarray(kept).reshape(-1, 4).copy()
    groups[:: len(groups) // count][:count] = True
    return groups.reshape(kept.shape)


GROUPS = SHAPE[0] * SHAPE[1] // 4
PATTERNS = {
    "dense": (np.ones(SHAPE, bool), Pattern.DENSE, GROUPS),
    "zeros of rounding to int4": (random(0.23), Pattern.DENSE, None),
    "2:4": (two_four(), Pattern.TWO_FOUR, 0),
    "1:4": (two_four() & two_four((128, 1024)).reshape(SHAPE), Pattern.TWO_FOUR, 0),
    "all zero": (np.zeros(SHAPE, bool), Pattern.TWO_FOUR, 0),
    "nearly 2:4": (regrown(two_four(), 7), Pattern.NEARLY, 7),
    "nearly 2:4 everywhere": (regrown(two_four(), 500), Pattern.NEARLY, 500),
    "along N": (along_n(), Pattern.ALONG_N, 0),
    "nearly along N": (regrown(along_n(), 7), Pattern.ALONG_N, None),
    "pairs": (pairs(), Pattern.PAIRS, 0),
    "a third anywhere": (random(0.3), Pattern.NONE, None),
    "half anywhere": (random(0.5), Pattern.NONE, None),
    "most anywhere": (random(0.75), Pattern.NONE, None),
}


@pytest.mark.parametrize("name", PATTERNS)
def test_patterns(name: str) -> None:
    kept, pattern, over = PATTERNS[name]
    found = zeros_of(kept)
    assert found.pattern is pattern
    assert over is None or found.over == over
    assert found.zeros == pytest.approx(1 - kept.mean())


@pytest.mark.parametrize(("side", "told"), [(128, 128), (64, 64), (256, 128)])
def test_tiles_that_are_two_four(side: int, told: int) -> None:
    found = zeros_of(tiles(side))
    assert found == Zeros(Pattern.TILES, found.zeros, GROUPS // 2, GROUPS, 0.5, told)


def test_changed_groups_spoil_only_their_tiles() -> None:
    """One in each of 7 tiles of 64x64, of 32."""
    found = zeros_of(regrown(two_four(), 1))
    assert found.pattern is Pattern.NEARLY and found.tiles == 31 / 32 and found.groups == GROUPS


@pytest.mark.parametrize("shape", [(3, 4), (2, 12), (5, 68), (130, 132)])
def test_ragged_weights(shape: tuple[int, int]) -> None:
    assert zeros_of(two_four(shape)).pattern is Pattern.TWO_FOUR
    assert zeros_of(np.ones(shape, bool)).pattern is Pattern.DENSE
    mixed = two_four(shape)
    mixed[:, :4] = np.array([True, True, True, False])  # dense along K in one group of each row
    assert zeros_of(mixed).pattern in (Pattern.NONE, Pattern.TILES)
