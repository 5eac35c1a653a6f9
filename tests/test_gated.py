from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from patch_compile.errors import InvariantError
from patch_compile.gated import interleave, interleave_grids, separate
from patch_compile.invariants import check_packed
from patch_compile.packing import pack, sparse_slabs, unpack
from tests.mosaics import masked_by_hand, random_mask, random_weight, shapes, tile_sizes

shares = st.sampled_from([0.0, 0.4, 1.0])
PARTS = ("dense", "sparse", "meta", "index")


def packed_pair(shape, tile, pair_of_shares, seed):
    """Gate and up, each with a tile map of its own: (packed, weight, mask, pattern) of the two."""
    made = []
    for number, share in enumerate(pair_of_shares):
        mask, pattern = random_mask(shape, tile, share, seed + number)
        weight = random_weight(shape, np.float16, seed + number)
        made.append((pack(weight.view(np.uint16), mask, 64), weight, mask, pattern))
    return made


@settings(max_examples=60, deadline=None)
@given(shapes, tile_sizes, shares, shares, st.integers(0, 9))
def test_gate_and_up_come_out_as_they_went_in(shape, tile, gate_share, up_share, seed):
    made = packed_pair(shape, tile, (gate_share, up_share), seed)
    both = interleave(made[0][0], made[1][0])
    for half, (packed, weight, mask, pattern) in zip(separate(both, shape[0]), made, strict=True):
        assert (half.shape, half.panel_rows) == (packed.shape, 64)
        assert all(np.array_equal(getattr(half, part), getattr(packed, part)) for part in PARTS)
        check_packed("x", half, weight.view(np.uint16), mask)
        np.testing.assert_array_equal(unpack(half), masked_by_hand(weight, mask, pattern).view(np.uint16))


@settings(max_examples=40, deadline=None)
@given(shapes, tile_sizes, shares, shares, st.integers(0, 9))
def test_panels_alternate_and_the_index_is_an_ordinary_one(shape, tile, gate_share, up_share, seed):
    gate, up = packed_pair(shape, tile, (gate_share, up_share), seed)
    both = interleave(gate[0], up[0])
    panels = -(-shape[0] // 64)
    assert both.shape == (128 * panels, shape[1])
    grid = interleave_grids(sparse_slabs(gate[2], 64), sparse_slabs(up[2], 64))
    np.testing.assert_array_equal(both.slab_is_sparse(), grid)
    rows = np.zeros((panels, 2, 64, shape[1]), np.uint16)
    for half, (_, weight, mask, pattern) in enumerate((gate, up)):
        masked = np.pad(masked_by_hand(weight, mask, pattern), ((0, 64 * panels - shape[0]), (0, 0)))
        rows[:, half] = masked.view(np.uint16).reshape(panels, 64, -1)
    np.testing.assert_array_equal(unpack(both), rows.reshape(both.shape))
    # One row of pointers ends where two did.
    assert both.nbytes == gate[0].nbytes + up[0].nbytes - 8


def test_a_slab_is_2_4_where_its_own_half_is():
    """The reason for panels of their own: rows of both in one slab would be 2:4 only where both are."""
    gate, up = packed_pair((128, 128), (64, 64), (1.0, 0.0), 0)
    both = interleave(gate[0], up[0])
    assert both.slab_is_sparse().tolist() == [[True, True], [False, False]] * 2


def test_what_does_not_pair_is_refused():
    gate = packed_pair((128, 64), (64, 64), (0.5, 0.5), 0)[0][0]
    for other in (packed_pair((64, 64), (64, 64), (0.5, 0.5), 0)[1][0], replace(gate, panel_rows=128)):
        with pytest.raises(ValueError, match="do not pair"):
            interleave(gate, other)
    with pytest.raises(ValueError, match="4 panels are not those of a gate and an up of 200 rows"):
        separate(interleave(gate, gate), 200)


def test_a_slab_of_the_other_half_is_found():
    made = packed_pair((128, 128), (64, 64), (0.0, 0.0), 3)
    both = interleave(made[0][0], made[1][0])
    swapped = replace(both, dense=both.dense[[2, 3, 0, 1, 4, 5, 6, 7]])
    half = separate(swapped, 128)[0]
    with pytest.raises(InvariantError, match=r"gate: .* decode to other bits"):
        check_packed("gate", half, made[0][1].view(np.uint16), made[0][2])
