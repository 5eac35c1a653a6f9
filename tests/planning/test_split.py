from itertools import pairwise, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from masklearn.masks.tiles import WHOLE
from patch_compile.errors import InvariantError
from patch_compile.planning.split import Split, SplitCost, SplitGroup, check_split, plan_split
from tests.mosaics import random_mask
from tests.refusals import refused

COST = SplitCost()
FREE = SplitCost(launch=1e-6, column=0)


def tiles(*rows):
    return np.array([[cell == "□" for cell in row] for row in rows])


def split(*rows, cost=FREE, tile=(128, 128)):
    grid = tiles(*rows)
    return plan_split(grid, (grid.shape[0] * tile[0], grid.shape[1] * tile[1]), tile, cost)


def groups(found):
    return [(group.rows, group.sparse_columns) for group in found.groups]


def test_the_picture_of_the_module():
    found = split("■■□□", "□□□■", "■■□□")
    assert groups(found) == [((0, 2), (2, 3)), ((1,), (0, 1, 2))]
    assert found.products == 4
    assert found.sparse_weights == 128 * 128 * (2 * 2 + 3)
    assert groups(split("■■□□", "□□□■", "■■□□", cost=COST)) == [((0, 1, 2), ())]


@pytest.mark.parametrize(("cell", "columns"), [("■", ()), ("□", (0, 1, 2))])
def test_one_kind_of_tile_is_one_product(cell, columns):
    found = split(*[cell * 3] * 4)
    assert groups(found) == [((0, 1, 2, 3), columns)]
    assert (found.products, found.row_order) == (1, None)


def test_dear_launches_are_spared():
    mask, _ = random_mask((2048, 2048), (128, 128), 0.6, 3)
    counts = []
    for launch in (1e-6, 0.1, 0.2, 5.0):
        found = plan_split(mask.tiles, mask.shape, mask.tile, SplitCost(launch, column=0))
        counts.append((found.products, found.sparse_weights))
    assert counts[0][1] == mask.sparse_weights
    assert all(later <= earlier for earlier, later in pairwise(counts)), counts
    assert counts[-1] == (1, 0)


def test_full_height_tiles_make_two_products():
    """Rows in order cost nothing more; rows out of order cost reordering Y."""
    gathered = np.arange(32)[:, None] < 18
    scattered = np.random.default_rng(0).permutation(gathered)
    for grid, cost in ((gathered, COST), (scattered, SplitCost(column=0))):
        found = plan_split(grid, (4096, 4096), (128, WHOLE), cost)
        assert found.products == 2
        assert found.sparse_weights == 18 * 128 * 4096
        assert all(len(found.dense_k(group)) in (0, 4096) for group in found.groups), "X is read whole"
        assert (found.row_order is None) == (grid is gathered)
    dense_only, sparse_only = (4096 * 4096 * each for each in (COST.dense, COST.sparse))
    mixed = plan_split(gathered, (4096, 4096), (128, WHOLE), COST).predicted_us(COST)
    assert mixed == pytest.approx(2 * COST.launch + 14 / 32 * dense_only + 18 / 32 * sparse_only)


def test_rows_stay_in_order_where_that_costs_nothing():
    assert split("□", "□", "■", "■").row_order is None
    swapped = split("□", "■", "□", "■")
    assert groups(swapped) == [((0, 2), (0,)), ((1, 3), ())]
    order = swapped.row_order
    made = np.concatenate([swapped.rows(group) for group in swapped.groups])
    np.testing.assert_array_equal(made[order], np.arange(512))


def test_reordering_rows_is_priced():
    rows = ["□", "■", "□", "■"]
    assert len(split(*rows, cost=SplitCost(launch=1e-6, column=0)).groups) == 2
    dear = split(*rows, cost=SplitCost(launch=1e-6, column=1.0))
    assert dear.row_order is None


def test_what_the_cost_counts():
    """The cost counts two products, two gathers of X and a sum, or one product."""
    cost = SplitCost(launch=10, dense=1, sparse=0.5, column=3)
    group = SplitGroup((0,), (1,))
    one = Split((8, 16), (8, 8), (group,))
    assert one.predicted_us(cost) == 5 * 10 + 3 * (16 + 8) + 8 * (8 * 1 + 8 * 0.5)
    assert Split((8, 16), (8, 8), (SplitGroup((0,), ()),)).predicted_us(cost) == 10 + 8 * 16
    swapped = Split((16, 8), (8, 8), (SplitGroup((1,), ()), SplitGroup((0,), ())))
    assert swapped.predicted_us(cost) == 2 * (10 + 64) + 10 + 3 * 16


def brute_force(grid, shape, tile, cost):
    """Cost of the best partition of the tile rows, each group with or without a 2:4 part."""

    def partitions(rows):
        if not rows:
            yield []
            return
        first, *rest = rows
        for parts in partitions(rest):
            yield [[first], *parts]
            for i, part in enumerate(parts):
                yield [*parts[:i], [first, *part], *parts[i + 1 :]]

    def ways(rows):
        columns = np.flatnonzero(grid[rows].all(axis=0))
        return [SplitGroup(tuple(rows), used) for used in ((), tuple(map(int, columns)))]

    every = (made for parts in partitions([*range(len(grid))]) for made in product(*map(ways, sorted(parts))))
    return min(Split(shape, tile, made).predicted_us(cost) for made in every)


@given(
    shape=st.tuples(st.integers(1, 40), st.integers(1, 10).map(lambda n: n * 4)),
    share=st.floats(0, 1),
    launch=st.sampled_from([1e-6, 1e-3, 5e-3, 5.0]),
    seed=st.integers(0, 999),
)
@settings(max_examples=60)
def test_row_groups_never_lose_to_dense(shape, share, launch, seed):
    mask, _ = random_mask(shape, (8, 8), share, seed)
    cost = SplitCost(launch, column=launch / 100)
    found = plan_split(mask.tiles, shape, mask.tile, cost)
    check_split("a", found, mask.tiles)
    assert found == plan_split(mask.tiles, shape, mask.tile, cost)
    used = np.zeros(shape, int)
    for group in found.groups:
        used[np.ix_(found.rows(group), found.sparse_k(group))] += 1
        used[np.ix_(found.rows(group), found.dense_k(group))] += 2
    assert set(np.unique(used)) <= {1, 2}
    assert found.sparse_weights == (used == 1).sum() <= mask.sparse_weights
    assert found.predicted_us(cost) <= Split(
        shape, mask.tile, (SplitGroup(tuple(range(len(mask.tiles))), ()),)
    ).predicted_us(cost)


def test_close_to_the_best_partition():
    """Greedy joining is not exact; on small random maps it is within a few per cent of the best partition."""
    cost, gaps = SplitCost(launch=0.05, column=1e-4), []
    for seed in range(12):
        mask, _ = random_mask((640, 512), (128, 128), 0.7, seed)
        best = brute_force(mask.tiles, mask.shape, mask.tile, cost)
        gaps.append(plan_split(mask.tiles, mask.shape, mask.tile, cost).predicted_us(cost) / best - 1)
    assert min(gaps) > -1e-12 and max(gaps) < 0.05, gaps
    assert np.mean(gaps) < 0.01


class TestCheckSplit:
    GRID = tiles("□■", "□□")

    def check(self, *made):
        check_split("layer", Split((256, 256), (128, 128), made), self.GRID)

    def test_right(self):
        self.check(SplitGroup((0,), (0,)), SplitGroup((1,), (0, 1)))

    @pytest.mark.parametrize("rows", [((0,),), ((0, 1), (1,)), ((0,), (2,))])
    def test_rows_that_are_no_partition(self, rows):
        with refused(InvariantError):
            self.check(*(SplitGroup(r, ()) for r in rows))

    def test_dense_tile_in_a_sparse_part(self):
        with refused(InvariantError):
            self.check(SplitGroup((0, 1), (0, 1)))
