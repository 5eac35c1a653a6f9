"""Slabs of n:16 among dense and 2:4 slabs: packed, unpacked, and computed by the function's body in ONNX Runtime."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from masklearn.masks.kinds.table import DENSE, TWO_FOUR
from patch_compile.packing.checks import check_packed
from patch_compile.packing.format import (
    OtherSlabs,
    PackedLinear,
    count_wrong,
    pack,
    unpack,
)
from patch_compile.packing.index import Place
from tests.mosaics import IN_16_BITS, mosaic, random_weight
from tests.refusals import refused

TILES = [(64, 64), (128, 128), (100, 64), (32, 192), (4096, 4096)]


def masked(weight, mask):
    """W∘M by the definition of a group of 16 (decision 14), element by element."""
    out = weight.copy()
    codes = mask.masks_of_sixteen()
    for n, k in np.ndindex(weight.shape):
        position = k % 64 // 16 * 4 + k % 16 // 8 * 2 + k % 2
        if not codes[n, k // 64 * 4 + k % 8 // 2] >> position & 1:
            out[n, k] = 0
    pattern = np.zeros((weight.shape[0], weight.shape[1] // 4), np.uint8)
    in_two_four = mask.tiles.repeat(mask.tile[0], 0).repeat(mask.tile[1] // 4, 1)
    pattern_there = in_two_four[: pattern.shape[0], : pattern.shape[1]]
    pattern[pattern_there] = mask.pattern
    kept = np.array(
        [[1, 1, 0, 0], [1, 0, 1, 0], [1, 0, 0, 1], [0, 1, 1, 0], [0, 1, 0, 1], [0, 0, 1, 1]], bool
    )
    drop = pattern_there[:, :, None] & ~kept[pattern]
    out[drop.reshape(weight.shape)] = 0
    return out


shapes = st.tuples(st.integers(1, 200), st.integers(1, 4).map(lambda slabs: slabs * 64))


@settings(max_examples=40)
@given(shapes, st.sampled_from(TILES), st.sampled_from([64, 128]), st.integers(0, 9))
def test_unpack_gives_the_masked_weight_bit_for_bit(shape, tile, panel_rows, seed):
    mask, weight = mosaic(shape, tile, seed), random_weight(shape, np.float16, seed).view(np.uint16)
    packed = pack(weight, mask, panel_rows)
    np.testing.assert_array_equal(unpack(packed), masked(weight, mask))
    check_packed("linear", packed, weight, mask)
    numbers, _ = packed.places()
    for p, s in np.ndindex(numbers.shape):
        rows = range(p * panel_rows, min((p + 1) * panel_rows, shape[0]))
        touched = {mask.kinds[n // tile[0], k // tile[1]] for n in rows for k in range(s * 64, s * 64 + 64)}
        code = packed.kinds[numbers[p, s]].code
        assert code == (touched.pop() if len(touched) == 1 else DENSE.code)
    assert all(len(one.values) for one in packed.others)  # no tensors without slabs


@pytest.mark.parametrize("kind", [kind for kind in IN_16_BITS if kind not in (DENSE, TWO_FOUR)], ids=str)
def test_lanes_find_values_in_planes(kind):
    """By the format in `packing/n16.py`: whole planes of 8 values of the low and the high rows, then 4 and 2 of both."""
    mask = mosaic((128, 128), (128, 128), 3, [kind])
    weight = np.random.default_rng(0).integers(1, 2**16, (128, 128)).astype(np.uint16)
    packed = pack(weight, mask, 128)
    assert packed.kinds == (DENSE, TWO_FOUR, kind) and not len(packed.dense)
    (slabs,) = packed.others
    assert (packed.nbytes - packed.index.nbytes) == kind.bytes_per_weight * 128 * 128
    codes, words = mask.masks_of_sixteen(), slabs.codes.view(np.uint32).reshape(2, 8, 32)
    for row, slab, t in [(0, 0, 0), (9, 1, 3), (70, 0, 2), (127, 1, 1)]:
        block, half, lane = row // 16, row % 16 // 8, row % 8 * 4 + t
        code = int(codes[row, slab * 4 + t])
        assert words[slab, block, lane] >> (16 * half) & 0xFFFF == code
        columns = [16 * (p // 4) + 8 * (p // 2 % 2) + 2 * t + p % 2 for p in range(16) if code >> p & 1]
        expected = weight[row, [slab * 64 + column for column in columns]]
        stored, found = slabs.values[slab], []
        for _ in range(kind.kept // 8):
            plane, stored = np.split(stored, [2 * 8 * 32 * 8])
            found += plane.reshape(2, 8, 32, 8)[half, block, lane].tolist()
        for size in [4] * (kind.kept % 8 >= 4) + [2] * (kind.kept % 4 == 2):
            plane, stored = np.split(stored, [8 * 32 * 2 * size])
            found += plane.reshape(8, 32, 2, size)[block, lane, half].tolist()
        assert found == expected.tolist() and not stored.size


def test_damage_is_found():
    mask = mosaic((128, 128), (64, 64), 5)
    weight = random_weight((128, 128), np.float16, 1).view(np.uint16)
    packed = pack(weight, mask, 64)
    first, *rest = packed.others
    other = first.codes.copy()
    other[0, 0] ^= 1
    damaged = (OtherSlabs(first.kind, first.values, other), *rest)
    parts = (packed.shape, 64, packed.dense, packed.sparse, packed.meta, packed.index)
    with refused(ValueError):
        unpack(PackedLinear(*parts, damaged))
    values = first.values + np.uint16(1)
    changed = PackedLinear(*parts, (OtherSlabs(first.kind, values, first.codes), *rest))
    assert count_wrong(changed, weight, mask, Place(np.arange(2))) == values.size
    with refused(ValueError):
        unpack(PackedLinear(*parts))
