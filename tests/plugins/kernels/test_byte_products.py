"""The rounding of X and the products of int8 that the emulation runs, each by itself."""

import numpy as np
import pytest

from tests.oracles.int8_products import quantise_inputs
from tests.oracles.integer_packing import W8A8, Quantised, pack_integers
from tests.plugins.configs import ALL, case_for
from tests.plugins.host_kernel import COMPILER, Launch
from tests.plugins.mosaic_cases import DTYPES
from tests.refusals import refused

pytestmark = pytest.mark.skipif(COMPILER is None, reason="no C++ compiler for the host emulation")


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("columns", [4, 60, 64, 520, 1028, 2052, 4100, 9000, 1 << 17])
def test_rows_are_rounded_as_the_oracle_rounds(byte_kernel, columns, dtype):
    """Rows of one warp to eight; the columns behind K are zeros."""
    x = (np.random.default_rng(columns).standard_normal((19, columns)) * 9).astype(dtype)
    x[3] = 0
    integers, scales = byte_kernel.rounded(x, DTYPES.index(dtype))
    expected, of_tokens = quantise_inputs(x)
    np.testing.assert_array_equal(integers[:, :columns], expected)
    assert not integers[:, columns:].any()
    np.testing.assert_array_equal(scales, of_tokens)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_number_is_rounded(byte_kernel, dtype):
    """All finite numbers of the type, 64 to a row with the largest of a range of exponents."""
    every = np.arange(1 << 16, dtype=np.uint16).view(dtype)
    every = np.sort(every[np.isfinite(every.astype(np.float32))])
    x = every[: len(every) // 64 * 64].reshape(64, -1).T.copy()
    np.testing.assert_array_equal(byte_kernel.rounded(x, DTYPES.index(dtype))[0], quantise_inputs(x)[0])
    tiny = every[every.astype(np.float32) >= 0][:4096].reshape(-1, 4)
    integers, scales = byte_kernel.rounded(tiny, DTYPES.index(dtype))
    expected, of_tokens = quantise_inputs(tiny)
    np.testing.assert_array_equal(integers[:, :4], expected)
    reached = np.abs(tiny.astype(np.float32)).max(-1) >= 2.0**-100
    np.testing.assert_array_equal(scales[reached], of_tokens[reached])
    assert np.isfinite(scales).all()


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


def test_mma_of_int8_multiplies_as_the_isa_says(byte_kernel):
    rng = np.random.default_rng(1)
    a, b = (rng.integers(-128, 128, shape).astype(np.int8) for shape in ((16, 32), (8, 32)))
    c = rng.integers(-(1 << 20), 1 << 20, (16, 8)).astype(np.int32)
    np.testing.assert_array_equal(
        byte_kernel.multiply_bytes(a, b, c), c + a.astype(np.int32) @ b.T.astype(np.int32)
    )


@pytest.mark.parametrize("columns", [32, 64])
def test_mma_sp_of_int8_takes_metadata_of_its_lanes(byte_kernel, columns):
    """Lane 4g + j has that of row g + 8 (j % 2), columns 32 (j / 2) and the next 31. Other lanes' words are ignored."""
    rng = np.random.default_rng(columns)
    half, groups = columns // 2, columns // 4
    pairs = np.array([(i, j) for i in range(4) for j in range(i + 1, 4)])[rng.integers(0, 6, (16, groups))]
    compressed, b = (rng.integers(-128, 128, shape).astype(np.int8) for shape in ((16, half), (8, columns)))
    dense, words = np.zeros((16, columns), np.int32), np.zeros(32, np.uint32)
    for row in range(16):
        for group in range(groups):
            first, second = pairs[row, group]
            dense[row, [4 * group + first, 4 * group + second]] = compressed[row, 2 * group : 2 * group + 2]
            lane = 4 * (row % 8) + row // 8 + group // 8 * 2
            words[lane] |= np.uint32((first | second << 2) << 4 * (group % 8))
    c = np.ones((16, 8), np.int32)
    np.testing.assert_array_equal(
        byte_kernel.multiply_bytes(compressed, b, c, words), 1 + dense @ b.T.astype(np.int32)
    )


@pytest.mark.parametrize("columns", [32, 64])
def test_unordered_metadata_is_refused(byte_kernel, columns):
    ones = np.ones((16, columns // 2), np.int8), np.ones((8, columns), np.int8), np.zeros((16, 8), np.int32)
    with refused(RuntimeError):
        byte_kernel.multiply_bytes(*ones, np.full(32, 0x22222222))
