import itertools

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from masklearn.masks.nm_codes import (
    KEPT_POSITIONS,
    PATTERNS,
    patterns_from_scores,
    removed_scores,
)

# few distinct values, so that ties are common
SCORES = arrays(np.float32, st.tuples(st.integers(1, 4), st.integers(1, 5).map(lambda g: 4 * g)),
                elements=st.integers(-2, 2).map(float))  # fmt: skip


def slow_code(group: tuple[float, ...]) -> int:
    """Pattern by sorting scores, ties to the lower index."""
    order = sorted(range(4), key=lambda i: (-group[i], i))
    return KEPT_POSITIONS.index((min(order[:2]), max(order[:2])))


def test_six_patterns_in_lexicographic_order() -> None:
    kept = [tuple(np.flatnonzero(pattern).tolist()) for pattern in PATTERNS]
    assert kept == [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)] == list(KEPT_POSITIONS)
    assert PATTERNS.shape == (6, 4)


def test_every_order_and_tie_of_four() -> None:
    groups = list(itertools.product(range(4), repeat=4))
    scores = np.asarray(groups, np.float32).reshape(1, -1)
    codes = patterns_from_scores(scores)
    assert codes.dtype == np.uint8
    assert codes[0].tolist() == [slow_code(group) for group in groups]


def test_all_equal_keeps_the_first_two() -> None:
    assert patterns_from_scores(np.zeros((2, 8), np.float32)).tolist() == [[0, 0], [0, 0]]


@given(SCORES)
def test_torch_agrees_with_numpy(scores: np.ndarray) -> None:
    codes = patterns_from_scores(torch.from_numpy(scores))
    assert codes.dtype == torch.uint8
    np.testing.assert_array_equal(codes.numpy(), patterns_from_scores(scores))
    np.testing.assert_array_equal(removed_scores(torch.from_numpy(scores)).numpy(), removed_scores(scores))


@given(SCORES)
def test_removed_is_what_the_pattern_drops(scores: np.ndarray) -> None:
    dropped = np.where(PATTERNS[patterns_from_scores(scores)], 0.0, scores.reshape(scores.shape[0], -1, 4))
    np.testing.assert_array_equal(removed_scores(scores), dropped.sum(axis=-1))


def test_removed_does_not_cancel_beside_a_huge_score() -> None:
    scores = np.asarray([[1e20, 1e-3, 2e-3, 4e-3]], np.float32)
    np.testing.assert_allclose(removed_scores(scores), [[3e-3]], rtol=1e-6)


@given(arrays(np.uint8, st.tuples(st.integers(1, 4), st.integers(1, 6)), elements=st.integers(0, 5)))
def test_a_mask_as_scores_gives_its_patterns_back(codes: np.ndarray) -> None:
    keep = PATTERNS[codes].reshape(codes.shape[0], -1)
    np.testing.assert_array_equal(patterns_from_scores(keep.astype(np.uint8)), codes)
