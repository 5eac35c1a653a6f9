"""The emulated mma.sp against vectors that do not come from this project."""

import numpy as np
import pytest

from tests.plugins.host_kernel import COMPILER
from tests.refusals import refused

pytestmark = pytest.mark.skipif(COMPILER is None, reason="no C++ compiler for the host emulation")


def test_the_golden_vector_of_llvm(kernel):
    """Vector from LLVM's sparse-mma-2-4-f16.mlir, an integration test that runs on the hardware."""
    compressed = np.add.outer(np.arange(16), np.arange(16)) + 1.0
    b = np.subtract.outer(np.arange(8), np.arange(32)).astype(float)
    out = kernel.mma_sp(0, compressed, b, np.full(32, 0x88888888))
    assert out[0].tolist() == [-2720, -2584, -2448, -2312, -2176, -2040, -1904, -1768]
    assert out[7].tolist() == [-4400, -4152, -3904, -3656, -3408, -3160, -2912, -2664]
    assert out[15].tolist() == [-6320, -5944, -5568, -5192, -4816, -4440, -4064, -3688]


@pytest.mark.parametrize("selector", [0, 1])
def test_each_lane_pair_serves_its_selector(kernel, selector):
    rng = np.random.default_rng(selector)
    pairs = np.array([(i, j) for i in range(4) for j in range(i + 1, 4)])[rng.integers(0, 6, (16, 8))]
    compressed = rng.standard_normal((16, 16)).astype(np.float16)
    b = rng.standard_normal((8, 32)).astype(np.float16)
    dense, words = np.zeros((16, 32)), rng.integers(0, 2**32, 32, dtype=np.uint32)
    words[[4 * g + 2 * selector + j for g in range(8) for j in range(2)]] = 0
    for row in range(16):
        for group in range(8):
            first, second = pairs[row, group]
            dense[row, 4 * group + first], dense[row, 4 * group + second] = compressed[
                row, 2 * group : 2 * group + 2
            ]
            lane = 4 * (row % 8) + 2 * selector + group // 4
            words[lane] |= np.uint32((first | second << 2) << (16 * (row // 8) + 4 * (group % 4)))
    out = kernel.mma_sp(selector, compressed, b, words)
    np.testing.assert_allclose(out, dense @ b.T.astype(np.float64), atol=1e-5)


def test_unordered_metadata_is_refused(kernel):
    with refused(RuntimeError):
        kernel.mma_sp(0, np.ones((16, 16)), np.ones((8, 32)), np.full(32, 0x22222222))


@pytest.mark.parametrize(("scalar", "dtype"), [(0, "float16"), (1, "bfloat16")])
def test_rounding_of_the_emulation_is_that_of_ieee(kernel, scalar, dtype):
    import ml_dtypes

    kind = np.dtype(getattr(ml_dtypes, dtype, None) or dtype)
    rng = np.random.default_rng(0)
    values = np.ldexp(rng.standard_normal(4000), rng.integers(-30, 20, 4000)).astype(np.float32)
    values = np.concatenate(
        [values, [0.0, -0.0, 65504, 65519.99, 65520, -65520, np.inf, 2.0**-25, 3 * 2.0**-25]]
    )
    values = values.astype(np.float32)
    with np.errstate(over="ignore"):
        expected = values.astype(kind).view(np.uint16)
    got = np.array([kernel.lib.patch_host_narrow(scalar, v) for v in values], np.uint16)
    np.testing.assert_array_equal(got, expected)
    every = np.arange(65536, dtype=np.uint16)
    widened = np.array([kernel.lib.patch_host_widen(scalar, int(v)) for v in every[::7]], np.float32)
    np.testing.assert_array_equal(widened, every[::7].view(kind).astype(np.float32))
