"""The last tile of the largest problem: N = K = 32768 and M = 65536, where offsets need 64 bits.

X, W and Y span 10 GB of addresses, and only the pages of that tile are touched.
"""

import ctypes

import numpy as np
import pytest

from tests.plugins.configs import CONFIGS
from tests.plugins.host_kernel import COMPILER, Arguments, Call, PartTable, Stats

pytestmark = pytest.mark.skipif(COMPILER is None, reason="no C++ compiler for the host emulation")

N = K = 32768
M = 65536
SLABS = K // 64
FILLED = 3  # non-zero slabs of the last panel: its first and its last two


@pytest.mark.parametrize("config", ["decode-64", "prefill-64", "broad-128"])
def test_the_last_tile_of_the_largest_problem(kernel, config):
    about, number = kernel.configs()[config], CONFIGS.index(config)
    panels, tiles = N // about.panel_rows, -(-M // about.tokens)
    rng = np.random.default_rng(number)
    x, y = np.zeros((M, K), np.float16), np.zeros((M, N), np.float16)
    dense = np.zeros((panels * SLABS, about.panel_rows * 64), np.float16)
    columns = np.array([0, SLABS - 2, SLABS - 1])
    # All packed values are ones, so the sum over a slab does not depend on the order within it.
    values = rng.integers(1, 5, FILLED)
    dense[-SLABS:][columns] = values[:, None]
    last = slice(M - about.tokens, M)
    for column in columns:
        x[last, column * 64 : (column + 1) * 64] = rng.integers(-2, 3, (about.tokens, 64))
    pointers = np.arange(panels + 1, dtype=np.int32) * SLABS
    index = np.concatenate([pointers, 0 * pointers, np.tile(np.arange(SLABS), panels)]).astype(np.int32)
    # The last part of a stream is its last tile, so that no tile is shared; a tile kernel has a block for each.
    table, blocks = PartTable(pointers=-1), 2 if about.streams else panels * tiles
    table.words[2], table.words[4] = (panels * tiles - 1) << 6, (panels * tiles) << 6
    call = Call(
        config=number, index_words=index.size, first_block=blocks - 1, seed=1, table=ctypes.addressof(table)
    )
    call.slab_values[0] = dense.size
    call.arguments = Arguments(
        x=x.ctypes.data, index=index.ctypes.data, y=y.ctypes.data, tokens=M, out_features=N, in_features=K,
        panels=panels, parts=blocks if about.streams else 1,
    )  # fmt: skip
    call.arguments.set_slabs(about.panel_rows, (len(dense),))
    call.arguments.slabs[0].values = dense.ctypes.data
    if kernel.lib.patch_host_run(ctypes.byref(call), ctypes.byref(Stats())):
        raise AssertionError(kernel.lib.patch_host_error().decode())
    slabs = x[last].reshape(about.tokens, SLABS, 64).astype(np.float64).sum(axis=2)
    expected = slabs[:, columns] @ values
    np.testing.assert_array_equal(
        y[last, -about.panel_rows :].astype(np.float64), np.repeat(expected[:, None], about.panel_rows, 1)
    )
    assert np.abs(expected).max() > 20
