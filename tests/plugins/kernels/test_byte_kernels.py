"""Kernels for w8a8, run by host fibers: X is rounded to integers, sums are exact, and Y has the bits of the oracle."""

import numpy as np
import pytest

from tests.plugins.configs import ALL, BYTES, case_for
from tests.plugins.host_kernel import COMPILER, CopyMode, Launch
from tests.plugins.mosaic_cases import ACTIVATIONS, DTYPES

pytestmark = pytest.mark.skipif(COMPILER is None, reason="no C++ compiler for the host emulation")

STREAMS = [name for name in BYTES if not name.endswith(("prefill-64", "prefill-128"))]


def check(kernel, case, config, **how):
    launch = Launch(ALL.index(config), scalar=DTYPES.index(case.dtype), **how)
    y = kernel.run(case.packed, case.x, case.bias, launch, **case.epilogue)
    if case.bits is None:
        assert case.worst(y) <= 1, how
    else:
        np.testing.assert_array_equal(y, case.bits, str(how))
    return y


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("config", BYTES)
def test_every_shape_gives_the_exact_bits(byte_kernel, config, dtype):
    """Ragged rows, columns and tokens; all dense, all 2:4 and mixed; with and without bias, residual and gate."""
    rows, tokens = byte_kernel.configs()[config][:2]
    for n, count in enumerate((1, 3, tokens - 1, tokens, tokens + 5, 2 * tokens + 9)):
        shape = (rows * (1 + n % 2) - 3 * n, 4 * (7 + 37 * n))
        how = {"bias": n % 2 > 0, "residual": n % 3 == 0, "gated": n % 3 == 1, "activation": ""}
        case = case_for(
            byte_kernel, config, count, shape, dtype=dtype, share=(0.5, 0, 1)[n % 3], seed=n, **how
        )
        assert case.bits is not None
        for parts in (1, 2 + n):
            check(byte_kernel, case, config, parts=parts, mode=CopyMode(n % 3), seed=parts)


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
            check(byte_kernel, case, config, parts=parts, mode=CopyMode(n % 3), seed=parts)


@pytest.mark.parametrize("config", BYTES)
def test_every_epilogue(byte_kernel, config):
    for n, activation in enumerate(ACTIVATIONS):
        for residual in (False, True):
            case = case_for(
                byte_kernel, config, 21, (150, 324), gated=n % 2 > 0, dtype=DTYPES[n // 2], bias=not residual,
                residual=residual, activation=activation, seed=n,
            )  # fmt: skip
            check(byte_kernel, case, config, parts=1 + 4 * residual, seed=n)


@pytest.mark.parametrize("config", STREAMS)
def test_any_parts_give_the_same_bits(byte_kernel, config):
    case = case_for(byte_kernel, config, 70, (300, 452), share=0.6, activation="", seed=3)
    most = byte_kernel.parts(case.packed, 70, Launch(ALL.index(config), parts=10**6))
    for parts in sorted({*range(1, 9), most // 2, most}):
        check(byte_kernel, case, config, parts=parts, mode=CopyMode(parts % 3), seed=parts)


@pytest.mark.parametrize("columns", [4, 8, 60, 64, 68, 124, 132])
@pytest.mark.parametrize("rows", [1, 2, 3, 7, 63, 64, 65, 129])
def test_ragged_weights(byte_kernel, rows, columns):
    """Shapes need every store width of Y and both copy widths of X; a view of X may begin at 8 bytes."""
    for config in ("w8a8-decode-64", "w8a8-decode-128", "w8a8-prefill-64"):
        case = case_for(
            byte_kernel, config, 3, (rows, columns), dtype=DTYPES[1], residual=True, seed=rows * columns
        )
        for offsets in ({}, {"x": 8}, {"y": 2}):
            check(byte_kernel, case, config, parts=2, offsets=offsets)
