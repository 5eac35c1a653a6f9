import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from patch_compile.planning.split import Split, SplitCost, SplitPart, plan_split
from tests.mosaics import random_mask

FREE = SplitCost(launch=1e-6, row=1e-9)


def split(*rows, cost=FREE, tile=(128, 128)):
    grid = np.array([[cell == "□" for cell in row] for row in rows])
    return plan_split(grid, (grid.shape[0] * tile[0], grid.shape[1] * tile[1]), tile, cost)


def parts(found, rows=128):
    """Returns kind and tile rows of each part."""
    return [(part.kind, [int(row) // rows for row in part.rows[::rows]]) for part in found.parts]


def test_the_picture_of_the_module():
    picture = "□□□", "■□□", "□□□", "■□■"
    assert parts(split(*picture, cost=SplitCost(launch=1e6))) == [("dense", [0, 1, 2, 3])]
    runs = split(*picture, cost=SplitCost(launch=1e-6, row=1e6))
    assert parts(runs) == [("sparse", [0]), ("dense", [1]), ("sparse", [2]), ("dense", [3])]
    assert runs.row_order is None
    two = split(*picture, cost=SplitCost(launch=1e-1, row=1e-9))
    assert parts(two) == [("sparse", [0, 2]), ("dense", [1, 3])]
    made = np.concatenate([part.rows for part in two.parts])
    np.testing.assert_array_equal(made[two.row_order], np.arange(512))
    assert two.sparse_weights == runs.sparse_weights == 2 * 128 * 384


@pytest.mark.parametrize(("cell", "kind"), [("■", "dense"), ("□", "sparse")])
def test_one_kind_of_tile_is_one_product(cell, kind):
    found = split(*[cell * 3] * 4)
    assert parts(found) == [(kind, [0, 1, 2, 3])] and found.row_order is None


def test_what_the_cost_counts():
    cost = SplitCost(launch=10, dense=1, sparse=0.5, row=3)
    first, second = np.arange(8), np.arange(8, 16)
    assert Split((8, 16), (SplitPart(first, "dense"),)).predicted_us(cost) == 10 + 8 * 16
    both = (SplitPart(first, "sparse"), SplitPart(second, "dense"))
    assert Split((16, 8), both).predicted_us(cost) == 2 * 10 + 64 * 1.5
    assert Split((16, 8), both[::-1]).predicted_us(cost) == 2 * 10 + 64 * 1.5 + 10 + 3 * 16


@given(
    shape=st.tuples(st.integers(1, 40), st.integers(1, 10).map(lambda n: n * 4)),
    share=st.floats(0, 1),
    launch=st.sampled_from([1e-6, 1e-3, 5e-3, 5.0]),
    seed=st.integers(0, 999),
)
@settings(max_examples=60)
def test_each_row_is_in_one_part(shape, share, launch, seed):
    mask, _ = random_mask(shape, (8, 1 << 20), share, seed)
    cost = SplitCost(launch, row=launch / 100)
    found = plan_split(mask.tiles, shape, mask.tile, cost)
    assert sorted(np.concatenate([part.rows for part in found.parts])) == [*range(shape[0])]
    full = np.repeat(mask.tiles.all(axis=1), 8)[: shape[0]]
    assert all(full[part.rows].all() for part in found.parts if part.kind == "sparse")
    dense = Split(shape, (SplitPart(np.arange(shape[0]), "dense"),))
    assert found.predicted_us(cost) <= dense.predicted_us(cost)
