"""Two packers that share no code agree on every bit, and metadata of int8 products are the words that CUTLASS loads."""

import numpy as np
import pytest
import torch
from torch.sparse._semi_structured_conversions import sparse_semi_structured_from_dense_cutlass

from masklearn.masks.kinds.table import TWO_FOUR
from patch_compile.packing.format import pack
from patch_compile.packing.slab_kinds import slab_kinds
from tests.mosaics import masked_by_hand, random_mask, random_weight
from tests.oracles.element_packing import pack_slabs, prune_2_of_4
from tests.oracles.integer_packing import W8A8, Quantised, pack_integers


@pytest.mark.parametrize("panel_rows", [64, 128])
@pytest.mark.parametrize(
    ("shape", "tile"),
    [((128, 256), (128, 128)), ((200, 300), (64, 128)), ((65, 132), (128, 64)), ((3, 4), (4, 4))],
)
@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_packing_agrees_with_the_oracle(shape, tile, share, panel_rows):
    mask, pattern = random_mask(shape, tile, share, seed=5)
    weight = random_weight(shape, np.float16, seed=6)
    packed = pack(weight.view(np.uint16), mask, panel_rows)
    masked = masked_by_hand(weight, mask, pattern).view(np.uint16)
    oracle = pack_slabs(masked, slab_kinds(mask, panel_rows) == TWO_FOUR.code, panel_rows)
    for name in ("dense", "index"):
        np.testing.assert_array_equal(getattr(packed, name), getattr(oracle, name), err_msg=name)
    # A group with fewer than two non-zeros may store any of its zeros, so the decoded values are compared.
    np.testing.assert_array_equal(_expand(packed), _expand(oracle))


def _expand(packed):
    """Decode sparse slabs to [slabs, panel rows, 64] from kept values and metadata, by the ISA's figures."""
    blocks = packed.panel_rows // 16
    values = packed.sparse.reshape(-1, 2, blocks, 32, 8)
    meta = packed.meta.view(np.uint32).reshape(-1, blocks, 32)
    out = np.zeros((len(values), packed.panel_rows, 64), np.uint16)
    for lane in range(32):
        g, t = divmod(lane, 4)
        for i in range(8):
            half, first = (i >> 1) & 1, 4 * t + 16 * (i >= 4)
            for k32 in range(2):
                word = meta[:, :, 4 * g + 2 * k32 + (first >> 4)] >> np.uint32(16 * half + (first & 15))
                place = (word >> np.uint32(2 * (i & 1))) & 3
                for block in range(blocks):
                    column = k32 * 32 + first + place[:, block]
                    row = block * 16 + g + 8 * half
                    out[np.arange(len(out)), row, column] = values[:, k32, block, lane, i]
    return np.where(out & 0x7FFF, out, 0)


def test_metadata_of_w8a8_are_cutlass_words():
    """By the converter of torch."""
    rng = np.random.default_rng(0)
    along_k = prune_2_of_4(rng.integers(1, 100, (64, 64)).astype(np.float32), rng).astype(np.int8)
    by_column = along_k.reshape(64, 4, 4, 4).swapaxes(1, 2).reshape(64, 64)
    packed = pack_integers(
        Quantised(W8A8, by_column, np.ones(64, np.float32)), np.array([[1]]), np.dtype(np.float16)
    )
    _, words = sparse_semi_structured_from_dense_cutlass(torch.from_numpy(along_k))
    np.testing.assert_array_equal(packed.meta.reshape(-1), words.numpy().reshape(-1))
