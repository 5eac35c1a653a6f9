"""The index of packed tensors: every lie about the slabs is named."""

import numpy as np
import pytest

from patch_compile.packing.index import csr_index, index_fault
from patch_compile.packing.slab_kinds import take_turns
from tests.oracles.element_packing import Packed
from tests.plugins.lying_index import LIES, lying

GRID = np.array([[True, False, True], [False, False, True], [True, True, True], [False, True, False]])


def packed(grid=GRID):
    counts = int((~grid).sum()), int(grid.sum())
    dense, sparse, meta = (np.zeros((n, 1), np.uint16) for n in (*counts, counts[1]))
    return Packed((64 * len(grid), 64 * grid.shape[1]), 64, dense, sparse, meta, csr_index(grid))


def fault(given):
    return index_fault(given.index, GRID.shape, {"dense": len(given.dense), "2:4": len(given.sparse)})


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_an_index_of_this_package_is_true(share):
    for seed in range(20):
        rng = np.random.default_rng(seed)
        grid = rng.random(rng.integers(1, 9, 2)) < share
        stored = {"dense": int((~grid).sum()), "2:4": int(grid.sum())}
        assert index_fault(csr_index(grid), grid.shape, stored) == ""


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("lie", LIES)
def test_every_lie_is_named(lie, seed):
    """An index with permuted columns may be valid: the columns of a panel may come in any order."""
    told = lying(packed(), lie, seed)
    same = np.array_equal(told.index, packed().index)
    assert ("the index is wrong: " in fault(told)) != same or lie == "columns: unsorted"


@pytest.mark.parametrize(
    ("place", "value", "said"),
    [
        (0, 1, "the dense slabs of the first panel begin at 1, must be 0"),
        (2, 9, "the dense slabs of panel 2 begin at 9 and end at 3"),
        (4, 6, "the dense slabs of the last panel end at 6, and 5 are stored"),
        (9, 4, "the 2:4 slabs of panel 3 begin at 6 and end at 4"),
        (10, -1, "dense slab 0 lies at column -1, and K has 3 columns of 64"),
        (-1, 3, "2:4 slab 6 lies at column 3, and K has 3 columns of 64"),
        (-1, 0, "slab 0 of panel 3 is stored 2 times, must be once"),
    ],
)
def test_the_fault_says_which_slab(place, value, said):
    given = packed()
    given.index[place] = value
    assert fault(given) == f"the index is wrong: {said}"


def test_size_and_type_match_the_slabs():
    given = packed()
    for index in (given.index[:-1], given.index.astype(np.int64), given.index[None]):
        said = index_fault(index, GRID.shape, {"dense": 5, "2:4": 7})
        assert "4 panels, 5 dense and 7 2:4 slabs need int32 [22]" in said


@pytest.mark.parametrize(
    ("gate", "up", "can"),
    [((72, 64), (72, 64), True), ((72, 64), (80, 64), False), ((76, 64), (76, 64), False)],
)
def test_equal_linears_of_whole_turns_share_panels(gate, up, can):
    assert take_turns(gate, up) == can
