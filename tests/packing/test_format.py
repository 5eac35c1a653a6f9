import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from masklearn.masks.kinds.table import KINDS, PRUNED, TWO_FOUR
from masklearn.masks.linear_mask import LinearMask
from masklearn.quant.table import FLOAT16, INT8, W8A8
from patch_compile.packing.format import PackedLinear, choose_panel_rows, pack, panel_heights, unpack
from patch_compile.packing.slab_kinds import ALWAYS
from tests.mosaics import IN_16_BITS, masked_by_hand, random_mask, random_weight, shapes, tile_sizes
from tests.refusals import refused

OF_W8A8 = (*ALWAYS, PRUNED["6:8"])


@settings(max_examples=60)
@given(
    shapes, tile_sizes, st.sampled_from([0.0, 0.3, 0.8, 1.0]), st.sampled_from([64, 128]), st.integers(0, 9)
)
def test_unpack_gives_the_masked_weight_bit_for_bit(shape, tile, share, panel_rows, seed):
    mask, pattern = random_mask(shape, tile, share, seed)
    weight = random_weight(shape, np.float16, seed)
    packed = pack(weight.view(np.uint16), mask, panel_rows)
    expected = masked_by_hand(weight, mask, pattern).view(np.uint16)
    np.testing.assert_array_equal(unpack(packed), expected)


@settings(max_examples=60)
@given(shapes, tile_sizes, st.sampled_from([0.0, 0.4, 1.0]), st.sampled_from([64, 128]), st.integers(0, 9))
def test_sparse_slabs_lie_in_sparse_tiles(shape, tile, share, panel_rows, seed):
    mask, _ = random_mask(shape, tile, share, seed)
    packed = pack(np.zeros(shape, np.uint16), mask, panel_rows)
    grid = packed.places()[0] == ALWAYS.index(TWO_FOUR)
    for p, s in np.ndindex(grid.shape):
        rows = range(p * panel_rows, min((p + 1) * panel_rows, shape[0]))
        columns = range(s * 64, min((s + 1) * 64, shape[1]))
        assert grid[p, s] == all(mask.tiles[n // tile[0], k // tile[1]] for n in rows for k in columns)


def test_fragments_lie_where_the_instruction_reads_them():
    """Places of single elements by PTX ISA 9.7.14.5.8 and 9.7.14.6.2.2."""
    weight = np.arange(128 * 64, dtype=np.uint16).reshape(128, 64)
    dense = pack(weight, LinearMask((128, 64), (128, 64), np.zeros((1, 1), bool), np.zeros(0, np.uint8)), 128)
    fragments = dense.dense.reshape(4, 8, 32, 8)  # k16, row block, lane, value
    for k16, block, lane, value in [(0, 0, 0, 0), (1, 3, 6, 2), (2, 7, 31, 5), (3, 5, 17, 7)]:
        row = block * 16 + lane // 4 + 8 * (value >> 1 & 1)
        column = k16 * 16 + 2 * (lane % 4) + (value & 1) + 8 * (value >= 4)
        assert fragments[k16, block, lane, value] == weight[row, column]

    pattern = np.random.default_rng(0).integers(0, 6, (128, 16)).astype(np.uint8)
    mask = LinearMask.from_candidate((128, 64), np.ones((1, 1), bool), pattern)
    packed = pack(weight, mask, 128)
    meta = packed.meta.view(np.uint32).reshape(8, 32)
    for row, group in [(0, 0), (9, 3), (70, 6), (127, 15)]:
        kept = [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)][pattern[row, group]]
        lane = row % 8 * 4 + group // 4
        word = meta[row // 16, lane] >> (16 * (row % 16 // 8))
        assert word >> (4 * (group % 4)) & 15 == kept[0] | kept[1] << 2
        # Kept value v of group j of a k32 is compressed column 2j + v.
        for v in (0, 1):
            column = 2 * (group % 8) + v
            lane = row % 8 * 4 + column % 8 // 2
            value = column % 2 + 2 * (row % 16 // 8) + 4 * (column // 8)
            stored = packed.sparse.reshape(2, 8, 32, 8)[group // 8, row // 16, lane, value]
            assert stored == weight[row, group * 4 + kept[v]]


def test_bytes_per_weight_are_those_of_the_format():
    shape = (1024, 1024)
    for share, bytes_per_weight in ((0.0, 2.0), (1.0, 1.125)):
        mask, _ = random_mask(shape, (128, 128), share, 0)
        packed = pack(np.zeros(shape, np.uint16), mask, 128)
        assert packed.nbytes - packed.index.nbytes == bytes_per_weight * 1024 * 1024


@pytest.mark.parametrize(
    ("shape", "tile", "rows", "about"),
    [
        ((4096, 4096), (128, 128), 128, ()),
        ((576, 576), (128, 128), 64, ()),  # 4.5 tiles, of which panels of 128 would pad a tenth
        ((192, 576), (128, 128), 64, ()),
        ((4096, 4096), (64, 64), 64, ()),
        ((4160, 4096), (128, 128), 128, ()),  # 1.5 % more padding, so wider panels win
        ((40, 64), (4096, 4096), 64, ()),
        ((4096, 4096), (128, 128), 128, (ALWAYS, W8A8)),
        ((4096, 4096), (64, 64), 64, (ALWAYS, W8A8)),
        ((4096, 4096), (128, 128), 128, (OF_W8A8, W8A8)),
        ((4096, 4096), (64, 64), 64, (OF_W8A8, W8A8)),
        ((4096, 4096), (128, 128), 64, (ALWAYS, INT8)),
        *(((4096, 4096), (128, 128), 64, (IN_16_BITS, weights)) for weights in (None, FLOAT16, INT8)),
    ],
)
def test_panel_rows(shape, tile, rows, about):
    assert choose_panel_rows(shape, tile, *about) == rows


@pytest.mark.parametrize(
    ("rows", "tile", "kinds", "heights"),
    [
        (4096, 128, ALWAYS, (128, 64)),
        (4096, 64, ALWAYS, (128, 64)),  # a tile of the gate and a tile of the up
        (4096, 32, ALWAYS, (64,)),
        (4096, 64, KINDS, (64,)),
        (64, 128, ALWAYS, (128, 64)),
        (160, 64, ALWAYS, (64,)),  # 192 rows, a fifth more than the gate has
    ],
)
def test_gated_panels_have_halves_of_whole_tiles(rows, tile, kinds, heights):
    assert panel_heights((rows, 4096), (tile, tile), kinds, gated=True) == heights


def test_damage_is_found():
    mask, _ = random_mask((128, 128), (64, 64), 0.5, 1)
    packed = pack(random_weight((128, 128), np.float16, 1).view(np.uint16), mask, 64)
    twice = packed.index.copy()
    twice[-1] = twice[-2]
    bad_meta = packed.meta.copy()
    bad_meta[0, 0] = 0
    parts = (packed.shape, 64, packed.dense, packed.sparse)
    with refused(ValueError):
        unpack(PackedLinear(*parts, packed.meta, twice))
    with refused(ValueError):
        unpack(PackedLinear(*parts, bad_meta, packed.index))


@pytest.mark.parametrize(
    ("places", "added"),
    [(slice(-1, None), -2), (slice(-1, None), 2), (slice(0, 3), 2)],
    ids=["a negative column", "a column behind K", "pointers that begin behind 0"],
)
def test_indices_outside_the_slabs_are_found(places, added):
    """K has two slabs: to numpy, column -2 is column 0."""
    mask, _ = random_mask((128, 128), (64, 64), 0.5, 1)
    packed = pack(random_weight((128, 128), np.float16, 1).view(np.uint16), mask, 64)
    lying = packed.index.copy()
    lying[places] += added
    with refused(ValueError):
        unpack(PackedLinear(packed.shape, 64, packed.dense, packed.sparse, packed.meta, lying))


def test_shapes_must_agree():
    mask, _ = random_mask((64, 64), (64, 64), 1.0, 0)
    with refused(ValueError):
        pack(np.zeros((64, 128), np.uint16), mask, 64)
