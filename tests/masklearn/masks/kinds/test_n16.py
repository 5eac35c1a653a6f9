"""The family n:16: its columns, its choice of the best, and its codes."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from masklearn.masks.kinds.table import FAMILIES

SIXTEEN = FAMILIES["n:16"]
KEPT = st.sampled_from([4, 6, 8, 10, 12, 14])
# few distinct values, so that ties are common
SCORES = arrays(np.float32, st.tuples(st.integers(1, 3), st.integers(1, 2).map(lambda slabs: 64 * slabs)),
                elements=st.integers(-2, 2).map(float))  # fmt: skip


def columns_of(group: int) -> list[int]:
    """Columns of a group as the kernel's picture has them: those of lane t in four steps of 16."""
    slab, t = divmod(group, 4)
    return [
        64 * slab + 16 * step + column
        for step in range(4)
        for column in (2 * t, 2 * t + 1, 2 * t + 8, 2 * t + 9)
    ]


def test_a_group_is_what_a_lane_holds() -> None:
    row = np.arange(192)
    assert SIXTEEN.groups(row).tolist() == [columns_of(group) for group in range(12)]


@settings(max_examples=40)
@given(SCORES, KEPT)
def test_the_best_are_kept_and_ties_go_to_the_lower_position(scores: np.ndarray, kept: int) -> None:
    codes = SIXTEEN.best(scores, kept)
    keep = SIXTEEN.keep(codes)
    for row in range(len(scores)):
        for group in range(scores.shape[1] // 16):
            columns = columns_of(group)
            ranked = sorted(range(16), key=lambda i: (-scores[row, columns[i]], i))[:kept]
            assert np.flatnonzero(keep[row, columns]).tolist() == sorted(ranked)
            assert codes[row, group] == sum(1 << i for i in ranked)


@settings(max_examples=40)
@given(SCORES, st.data())
def test_torch_gives_the_same_codes_and_groups_may_keep_different_numbers(
    scores: np.ndarray, data: st.DataObject
) -> None:
    shape = (scores.shape[0], scores.shape[1] // 16)
    kept = data.draw(arrays(np.uint8, shape, elements=st.sampled_from([4, 8, 12, 16])))
    codes = SIXTEEN.best(scores, kept)
    ours = SIXTEEN.best(torch.from_numpy(scores), torch.from_numpy(kept))
    assert codes.dtype == np.uint16
    np.testing.assert_array_equal(ours.numpy(), codes)
    np.testing.assert_array_equal(SIXTEEN.keep(ours).numpy(), SIXTEEN.keep(codes))
    np.testing.assert_array_equal(SIXTEEN.groups(SIXTEEN.keep(codes)).sum(-1), kept)
    SIXTEEN.check(codes.ravel(), kept.ravel())


def test_a_code_with_another_count_is_refused() -> None:
    with pytest.raises(ValueError, match="keeps 3 weights in a tile that keeps 8"):
        SIXTEEN.check(np.array([0xFF, 0b111], np.uint16), np.array([8, 8], np.uint8))
