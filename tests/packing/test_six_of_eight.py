"""Slabs of 6:8: packed, unpacked, and read as the two instructions read them."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from patch_compile.packing.six_of_eight import pack_panel_of_eight, unpack_panel_of_eight

CODES = np.array([255 ^ 1 << a ^ 1 << b for a, b in itertools.combinations(range(8), 2)], np.uint8)
panels_of = pytest.mark.parametrize("panel_rows", [64, 128])


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
    """The matrix of two positions of four `[rows, 32 · steps]` that an instruction of this K multiplies, from its registers.

    values: bytes of a row block after the other, of each lane's registers; meta: words of the lanes that give them.
    PTX ISA 9.7.14.6.2: lane 4g + t has in register 2 r + h the kept values 16 r + 4 t … + 3 of row g + 8 h.
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
@settings(max_examples=20, deadline=None)
@given(st.integers(1, 128), st.integers(1, 30), st.integers(0, 999))
def test_unpack_gives_the_masked_weight(panel_rows, rows, groups, seed):
    masked, slots, values, meta = panel(min(rows, panel_rows), 8 * groups, panel_rows, seed)
    found = np.full_like(masked, 7)
    assert unpack_panel_of_eight(found, np.ones(len(slots), np.bool_), slots, values, meta)
    np.testing.assert_array_equal(found, masked)


@panels_of
def test_two_instructions_multiply_the_weight(panel_rows):
    """The outer part by m16n8k64 on all columns, the middle part by m16n8k32 on two columns of every four."""
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
