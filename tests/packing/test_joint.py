"""Linears that share X in one packed linear: gate and up take turns of 8 rows, others are stacked."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from masklearn.masks.kinds.table import DENSE, TWO_FOUR
from patch_compile.errors import InvariantError
from patch_compile.packing.checks import check_packed
from patch_compile.packing.format import pack, pack_together, unpack
from patch_compile.packing.index import gated_panels, stacked_panels
from patch_compile.packing.slab_kinds import ALWAYS, stacked_rows
from tests.mosaics import masked_by_hand, random_mask, random_weight, shapes, tile_sizes
from tests.oracles.element_packing import in_turns
from tests.refusals import refused

shares = st.sampled_from([0.0, 0.4, 1.0])
heights = st.lists(st.integers(1, 300), min_size=2, max_size=4)


def linears(all_shapes, tile, all_shares, seed):
    """Random linears, each with a tile map of its own: (weight, mask, pattern)."""
    made = []
    for number, (shape, share) in enumerate(zip(all_shapes, all_shares, strict=True)):
        mask, pattern = random_mask(shape, tile, share, seed + number)
        made.append((random_weight(shape, np.float16, seed + number), mask, pattern))
    return made


def together(made, panel_rows, panels):
    return pack_together([(weight.view(np.uint16), mask) for weight, mask, _ in made], panel_rows, panels)


def masked_panels(weight, mask, pattern, panel_rows):
    """`W∘M`, padded to whole panels: [panels, panel_rows, K]."""
    masked = masked_by_hand(weight, mask, pattern).view(np.uint16)
    padded = np.pad(masked, ((0, -len(masked) % panel_rows), (0, 0)))
    return padded.reshape(-1, panel_rows, masked.shape[1])


@settings(max_examples=60)
@given(shapes, tile_sizes, shares, shares, st.sampled_from([64, 128]), st.integers(0, 9))
def test_gate_and_up_take_turns(shape, tile, gate_share, up_share, panel_rows, seed):
    shape = -(-shape[0] // 8) * 8, shape[1]
    made = linears([shape] * 2, tile, (gate_share, up_share), seed)
    places = gated_panels(shape[0], panel_rows)
    both = together(made, panel_rows, places)
    expected = in_turns(np.stack([masked_by_hand(*one).view(np.uint16) for one in made]))
    found = unpack(both)
    np.testing.assert_array_equal(found[: len(expected)], expected)
    assert not found[len(expected) :].any()
    for (weight, mask, _), own in zip(made, places, strict=True):
        check_packed("x", both, weight.view(np.uint16), mask, own)


@settings(max_examples=60)
@given(heights, st.integers(1, 40), tile_sizes, st.sampled_from([64, 128]), st.integers(0, 9))
def test_others_lie_one_below_the_other(rows, groups, tile, panel_rows, seed):
    made = linears([(n, 4 * groups) for n in rows], tile, [(0.0, 0.5, 1.0)[n % 3] for n in rows], seed)
    panels = stacked_panels(rows, panel_rows)
    whole = together(made, panel_rows, panels)
    expected = np.concatenate([masked_panels(*one, panel_rows) for one in made])
    np.testing.assert_array_equal(unpack(whole), expected.reshape(whole.shape))
    for (weight, mask, _), own in zip(made, panels, strict=True):
        check_packed("x", whole, weight.view(np.uint16), mask, own)
    alone = [pack(weight.view(np.uint16), mask, panel_rows) for weight, mask, _ in made]
    assert whole.nbytes == sum(one.nbytes for one in alone) - 8 * (len(rows) - 1)
    taken = stacked_rows(rows, panel_rows)
    starts = [int(own.panels[0]) * panel_rows for own in panels]
    assert taken[-1] == rows[-1] and starts == [sum(taken[:i]) for i in range(len(rows))]


@pytest.mark.parametrize("shares", [(1.0, 0.0), (0.0, 1.0), (1.0, 1.0)])
def test_a_slab_is_sparse_where_both_are(shares):
    both = together(linears([(128, 128)] * 2, (64, 64), shares, 0), 128, gated_panels(128, 128))
    kind = TWO_FOUR if shares == (1.0, 1.0) else DENSE
    assert both.places()[0].tolist() == [[ALWAYS.index(kind)] * 2] * 2


def test_linears_of_another_k_are_refused():
    made = linears([(64, 64), (64, 128)], (64, 64), (0.5, 0.5), 0)
    with refused(ValueError):
        together(made, 64, stacked_panels([64, 64], 64))


def test_panels_of_another_linear_are_found():
    made = linears([(128, 64)] * 2, (64, 64), (0.0, 0.5), 1)
    panels = stacked_panels([128, 128], 64)
    whole = together(made, 64, panels)
    weight, mask, _ = made[0]
    with refused(InvariantError):
        check_packed("q", whole, weight.view(np.uint16), mask, panels[1])
