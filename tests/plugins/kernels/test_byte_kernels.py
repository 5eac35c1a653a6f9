"""What only kernels for w8a8 have, run by host fibers: pairs of 6:8 slabs, tokens that are not finite, sums of int32."""

import numpy as np
import pytest

from tests.oracles.integer_packing import W8A8, Quantised, pack_integers
from tests.plugins.configs import ALL, BYTES, case_for
from tests.plugins.host_kernel import COMPILER, CopyMode, Launch
from tests.plugins.kernels.test_results import check
from tests.plugins.mosaic_cases import DTYPES

pytestmark = pytest.mark.skipif(COMPILER is None, reason="no C++ compiler for the host emulation")


@pytest.mark.parametrize("config", BYTES)
def test_runs_of_6_of_8_have_any_length(byte_kernel, config):
    """Tile kernels multiply their slabs in pairs, and the last one of an odd number by itself."""
    rows = byte_kernel.configs()[config].panel_rows
    for n, slabs in enumerate((1, 2, 3, 6, 11)):
        case = case_for(
            byte_kernel, config, 9 + n, (rows + 7, slabs * 64 - 4 * n), dtype=DTYPES[n % 2], share=1, only=2,
            activation="", seed=n,
        )  # fmt: skip
        for parts in (1, 3):
            check(byte_kernel, case, config, case.dtype, parts=parts, mode=CopyMode(n % 3), seed=parts)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_token_that_is_not_finite_is_nan(byte_kernel, dtype):
    """All its outputs are, and those of other tokens keep their bits."""
    for config in ("w8a8-decode-64", "w8a8-prefill-128"):
        case = case_for(byte_kernel, config, 21, (70, 132), dtype=dtype, seed=2)
        rows = {4: np.nan, 7: np.inf, 11: -np.inf}
        x = case.x.copy()
        for row, value in rows.items():
            x[row, 5] = np.array(value, dtype).view(np.uint16)
        x[13] = 0
        launch = Launch(ALL.index(config), DTYPES.index(dtype), parts=3)
        y = byte_kernel.run(case.packed, x, case.bias, launch)
        nan = np.isnan(y.view(dtype).astype(np.float32))
        assert nan[list(rows)].all() and not np.delete(nan, list(rows), 0).any()
        np.testing.assert_array_equal(y[13], case.bias)
        same = [row for row in range(21) if row not in (*rows, 13)]
        np.testing.assert_array_equal(y[same], case.bits[same])


def test_the_largest_sums_do_not_wrap(byte_kernel):
    """The most columns, all integers of the largest products of both signs, added by several parts."""
    columns, rows = 1 << 17, 3
    one = Quantised(W8A8, np.full((rows, columns), -128, np.int8), np.ones(rows, np.float32))
    packed = pack_integers(one, np.zeros((1, columns // 64), int), None)
    x = np.ones((3, columns), DTYPES[1])
    x[1] = -1
    x[2, ::2] = -1
    launch = Launch(ALL.index("w8a8-decode-64"), 1, parts=7)
    y = byte_kernel.run(packed, x.view(np.uint16), None, launch).view(DTYPES[1]).astype(np.float32)
    largest = np.float32(128 * columns)
    np.testing.assert_array_equal(y, np.outer([-largest, largest, 0], np.ones(rows)))
