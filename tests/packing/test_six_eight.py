"""Slabs of 6:8: packed, unpacked, and read as the instruction reads them."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from masklearn.masks.kinds.table import DENSE, TWO_FOUR
from masklearn.quant.table import INT8, W8A8
from patch_compile.errors import InvariantError
from patch_compile.packing.checks import check_packed
from patch_compile.packing.format import pack
from patch_compile.packing.index import stacked_panels
from patch_compile.packing.quantised import Quantised, pack_quantised, unpack_quantised
from patch_compile.packing.six_eight import pack_panel_of_eight, unpack_panel_of_eight
from patch_compile.packing.slab_kinds import stacked_rows
from tests.mosaics import mosaic, random_grid
from tests.packing.test_function import one_linear, run
from tests.packing.test_int8_products import (
    HALF,
    OF_W8A8,
    SIX_EIGHT,
    check_equal,
    dtypes,
    inputs,
    packed_linear,
    panels_of,
)
from tests.refusals import refused

CODES = np.array([255 ^ 1 << a ^ 1 << b for a, b in itertools.combinations(range(8), 2)], np.uint8)


def panel(rows, columns, panel_rows, seed):
    """A weight without zeros, its masks, and the slabs of one panel, which lie in another order."""
    rng = np.random.default_rng(seed)
    codes = rng.choice(CODES, (rows, columns // 8))
    codes.flat[:28] = CODES[: codes.size]
    weight = rng.integers(1, 128, (rows, columns)).astype(np.uint16)
    slots = rng.permutation(-(-columns // 64))
    values = np.zeros((len(slots), panel_rows * 48), np.uint16)
    meta = np.zeros((len(slots), panel_rows * 3), np.uint32)
    pack_panel_of_eight(weight, codes, np.ones(len(slots), np.bool_), slots, values, meta)
    return np.where(kept(codes), weight, 0), slots, values, meta


def kept(codes):
    return np.unpackbits(codes[..., None], axis=-1, bitorder="little").view(np.bool_).reshape(len(codes), -1)


def multiplied(values, meta, steps):
    """The 2:4 matrix `[rows, 32 · steps]` of the first k halves of m16n8k64, from its registers. steps: k halves.

    values: bytes of each lane's registers, row block by row block; meta: words of the lanes that give them. PTX ISA
    9.7.14.6.2.7: lane 4g + t has in register 2 r + h the kept values 16 r + 4 t … + 3 of row g + 8 h.
    """
    blocks = values.reshape(-1, 8, 4, steps, 2, 4)
    numbers = blocks.transpose(0, 4, 1, 3, 2, 5).reshape(len(blocks) * 16, -1, 2)
    nibbles = meta.reshape(-1, 8, steps, 2, 1) >> np.arange(0, 32, 4, dtype=np.uint32) & 15
    by_row = nibbles.transpose(0, 3, 1, 2, 4).reshape(len(numbers), -1)
    found = np.zeros((*by_row.shape, 4), np.uint16)
    for at, shift in enumerate((0, 2)):
        np.put_along_axis(found, (by_row >> shift & 3)[..., None], numbers[..., at : at + 1], -1)
    return found.reshape(len(found), -1)


@panels_of
def test_two_products_give_the_weight(panel_rows):
    """The outer part on all columns of a slab, the middle part on two columns of every four."""
    masked, slots, values, meta = panel(panel_rows, 192, panel_rows, 3)
    for slab, slot in enumerate(slots):
        parts = zip(
            np.split(values[slot], [panel_rows * 32]), np.split(meta[slot], [panel_rows * 2]), strict=True
        )
        outer, middle = (multiplied(*part, steps) for part, steps in zip(parts, (2, 1), strict=True))
        found = np.zeros((panel_rows, 64), np.uint16)
        for i, t, b in np.ndindex(4, 4, 4):
            found[:, 16 * t + 4 * i + b] += outer[:, 16 * i + 4 * t + b]
        for h, t, b in np.ndindex(2, 4, 4):
            found[:, 16 * t + 8 * h + 2 + b] += middle[:, 16 * h + 4 * t + b]
        np.testing.assert_array_equal(found, masked[:, slab * 64 : slab * 64 + 64])


def test_outer_windows_take_lower_positions_first():
    """The first window has the lowest of 2 and 3 that it has room for, the third of 4 and 5."""
    weight = np.arange(1, 65, dtype=np.uint16)[None]
    for code in CODES:
        values, meta = np.zeros((1, 64 * 48), np.uint16), np.zeros((1, 64 * 3), np.uint32)
        one, at = np.ones(1, np.bool_), np.zeros(1, np.int64)
        pack_panel_of_eight(weight, np.full((1, 8), code), one, at, values, meta)
        there = [position for position in range(8) if code >> position & 1]
        first = [position for position in there if position < 4][:2]
        last = [position for position in there if position > 5]
        third = [*[position for position in there if position in (4, 5)][: 2 - len(last)], *last]
        middle = sorted({*there} - {*first} - {*third})
        nibbles = [meta[0, 0] & 15, meta[0, 128] & 15, meta[0, 0] >> 16 & 15]
        starts = zip(nibbles, (0, 2, 4), strict=True)
        found = [[start + int(nibble & 3), start + int(nibble >> 2)] for nibble, start in starts]
        assert found == [first, middle, third], code


def test_padding_keeps_the_first_six():
    """Rows from 16 on are other words; a nibble of 4 has the positions 0 and 1."""
    _, _, values, meta = panel(3, 40, 64, 1)
    assert (meta[0, 32:128] == 0x44444444).all() and (meta[0, 144:] == 0x44444444).all()
    assert np.count_nonzero(values) == 3 * 5 * 6


def test_damaged_metadata_are_refused():
    """A bit of metadata that is changed makes two positions equal, not ascending, or in two windows, or moves a value."""
    masked, slots, values, meta = panel(64, 64, 64, 5)
    refusals = 0
    for at in range(0, meta.size * 32, 7):
        other, found = meta.copy(), np.zeros_like(masked)
        other.flat[at // 32] ^= np.uint32(1 << at % 32)
        right = unpack_panel_of_eight(found, np.ones(1, np.bool_), slots, values, other)
        assert not right or (found != masked).any()
        refusals += not right
    assert refusals > meta.size


def linear(shape, dtype, seed, tile=(64, 64), kinds=OF_W8A8, weights=W8A8):
    """A weight on a random grid, under a mask with random tiles of these kinds."""
    integers, grid = random_grid(shape, weights, seed)
    return Quantised.of(grid.values(integers, dtype), mosaic(shape, tile, seed, kinds), grid)


@dtypes
@panels_of
@settings(max_examples=20)
@given(
    st.integers(1, 300),
    st.integers(1, 40),
    st.sampled_from([(64, 64), (128, 128), (100, 40), (4096, 4096)]),
    st.integers(0, 999),
)
def test_unpack_inverts_pack(dtype, panel_rows, rows, groups, tile, seed):
    one = linear((rows, 8 * groups), dtype, seed, tile)
    packed = packed_linear(one, dtype, panel_rows)
    found, scales = unpack_quantised(packed, dtype)
    np.testing.assert_array_equal(found[:rows], one.integers)
    np.testing.assert_array_equal(scales[:rows], one.grid.scales)
    assert not found[rows:].any()
    check_packed("linear", packed, one.values(dtype), one.mask)


def test_six_eight_slabs_have_60_bytes_a_row():
    packed = packed_linear(linear((128, 128), HALF, 1, (128, 128), (SIX_EIGHT,)), HALF, 128)
    (slabs,) = packed.others
    assert packed.kinds == OF_W8A8 and not len(packed.dense) and not len(packed.sparse)
    assert slabs.values.nbytes + slabs.codes.nbytes == 60 * 128 * 2
    assert SIX_EIGHT.bytes_of(W8A8) == 60 / 64


def test_every_changed_word_is_found():
    one = linear((128, 256), HALF, 7)
    packed = packed_linear(one, HALF)
    (slabs,) = packed.others
    for tensor in (slabs.values, slabs.codes):
        for at in range(0, tensor.size, 97):
            before = tensor.flat[at]
            tensor.flat[at] = before ^ (1 << at % 31)
            with pytest.raises(InvariantError):
                check_packed("linear", packed, one.values(HALF), one.mask)
            tensor.flat[at] = before


@dtypes
@pytest.mark.parametrize(
    ("shape", "panel_rows"), [((150, 320), 64), ((300, 2504), 128), ((10, 104), 64), ((1, 8), 64)], ids=str
)
def test_the_body_computes_the_oracles_products(dtype, shape, panel_rows):
    one, x = linear(shape, dtype, 3), inputs((2, 3, shape[1]), dtype)
    packed = packed_linear(one, dtype, panel_rows)
    check_equal(run(one_linear(packed, dtype.type, out_features=shape[0]), x, dtype.type), x, one)


def test_stacked_linears_have_one_tensor_of_six_eight():
    """The first linear has only 6:8 tiles, the second none, and all rows of slabs lie in the same tensors."""
    rows, panel_rows = [100, 40, 130], 128
    kinds = [(SIX_EIGHT,), (DENSE, TWO_FOUR), OF_W8A8]
    made = [linear((n, 192), HALF, 20 + n, (128, 64), own) for n, own in zip(rows, kinds, strict=True)]
    packed = pack_quantised(made, stacked_panels(rows, panel_rows), HALF, panel_rows)
    taken, x = stacked_rows(rows, panel_rows), inputs((1, 3, 192), HALF)
    y = run(one_linear(packed, np.float16, out_features=sum(taken)), x, np.float16)
    for one, start, n in zip(made, np.cumsum([0, *taken]), rows, strict=False):
        check_equal(y[..., start : start + n], x, one)


def test_only_w8a8_has_such_slabs():
    one = linear((64, 128), HALF, 1, kinds=(SIX_EIGHT,), weights=INT8)
    with refused(ValueError):
        packed_linear(one, HALF)
    with refused(ValueError):
        pack(one.values(HALF).view(np.uint16), one.mask, 64)
