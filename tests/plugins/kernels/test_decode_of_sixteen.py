"""The decoder of n:16 slabs moves every bit to its place, on the host emulation and as PTX."""

import numpy as np
import pytest

from tests.plugins.host_kernel import COMPILER
from tests.plugins.kernels.unpacked_slabs import HostUnpacker, PtxUnpacker, codes_of, packed_slabs
from tests.plugins.machine_code import NVCC

pytestmark = pytest.mark.skipif(COMPILER is None, reason="no C++ compiler for the host emulation")

CONFIGS = {"decode-64": (0, 64), "decode-128": (3, 128), "prefill-128": (5, 128)}
CASES = [(count, "decode-64") for count in (4, 6, 8, 10, 12, 14)] + [(12, "decode-128"), (10, "prefill-128")]
SLABS = 2

cases = pytest.mark.parametrize(("count", "config"), CASES)


@pytest.fixture(scope="module")
def host(library_cache):
    return HostUnpacker(library_cache)


def slabs_of(count, config):
    rng = np.random.default_rng(count)
    rows = CONFIGS[config][1]
    return packed_slabs(codes_of(count, rng, SLABS * rows), count, rng, rows)


@cases
def test_every_bit_of_every_kept_value_gets_to_its_place(host, count, config):
    words, fragments = slabs_of(count, config)
    np.testing.assert_array_equal(host.run(CONFIGS[config][0], count, words, SLABS), fragments)


@pytest.mark.parametrize("count", [4, 8, 12])
def test_all_masks_of_a_count(host, count):
    """All masks of the count, some of them twice to fill the last slab."""
    every = np.arange(1 << 16)
    every = every[np.bitwise_count(every) == count].astype(np.uint16)
    slabs = -(-len(every) // 256)
    words, fragments = packed_slabs(np.resize(every, (slabs * 64, 4)), count, np.random.default_rng(0), 64)
    np.testing.assert_array_equal(host.run(CONFIGS["decode-64"][0], count, words, slabs), fragments)


@pytest.mark.skipif(NVCC is None, reason="no nvcc")
@cases
def test_its_ptx_moves_every_bit_to_its_place(request, count, config):
    ptx = PtxUnpacker(request.config.cache.mkdir("patch-ptx"))
    words, fragments = slabs_of(count, config)
    np.testing.assert_array_equal(ptx.run(CONFIGS[config][0], count, words, SLABS), fragments)
