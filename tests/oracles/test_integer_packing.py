"""The independent packer's metadata for int8 products are the words that CUTLASS loads, by torch's converter."""

import numpy as np
import torch
from torch.sparse._semi_structured_conversions import sparse_semi_structured_from_dense_cutlass

from tests.oracles.element_packing import prune_2_of_4
from tests.oracles.integer_packing import W8A8, Quantised, pack_integers


def test_metadata_of_w8a8_are_cutlass_words():
    rng = np.random.default_rng(0)
    along_k = prune_2_of_4(rng.integers(1, 100, (64, 64)).astype(np.float32), rng).astype(np.int8)
    by_column = along_k.reshape(64, 4, 4, 4).swapaxes(1, 2).reshape(64, 64)
    packed = pack_integers(
        Quantised(W8A8, by_column, np.ones(64, np.float32)), np.array([[1]]), np.dtype(np.float16)
    )
    _, words = sparse_semi_structured_from_dense_cutlass(torch.from_numpy(along_k))
    np.testing.assert_array_equal(packed.meta.reshape(-1), words.numpy().reshape(-1))
