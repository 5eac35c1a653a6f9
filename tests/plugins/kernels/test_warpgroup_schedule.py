"""When the plugin chooses the kernel with wgmma: never unless it is turned on, then for many tokens."""

import pytest

from tests.plugins.configs import ALL, CONFIGS
from tests.plugins.host_kernel import COMPILER, Device, problem_of
from tests.ptx.warpgroup_kernel import WARPGROUP_CONFIGS

pytestmark = pytest.mark.skipif(COMPILER is None, reason="no C++ compiler for the host emulation")

OFF = Device(132, 227 << 10, 50 << 20, 183, 1269, 2048)
ON = Device(132, 227 << 10, 50 << 20, 183, 1269, 2048, 1)
NAMES = (*ALL, *(config.name for config in WARPGROUP_CONFIGS))
FITTING = {(128, 0): "hopper-pair-128", (64, 0): "hopper-64", (64, 1): "gated-hopper-64"}


def problem(tokens, rows, gated, share, shape=(11008, 4096)):
    slabs = (1 + gated) * -(-shape[0] // rows) * -(-shape[1] // 64)
    sparse = round(share * slabs)
    return problem_of(tokens, shape, rows, (slabs - sparse, sparse), gated)


@pytest.mark.parametrize(("rows", "gated"), FITTING)
@pytest.mark.parametrize("share", [0.0, 0.5, 0.7, 1.0])
def test_many_tokens_choose_it_where_on(kernel, rows, gated, share):
    for tokens in (1, 16, 64, 4096, 16384):
        asked = problem(tokens, rows, gated, share)
        off, on = (kernel.schedule(asked, device) for device in (OFF, ON))
        assert NAMES[off[0]] in CONFIGS
        assert (NAMES[on[0]] == FITTING[rows, gated]) == (tokens >= 4096), tokens
        assert on[1] == 1 or NAMES[on[0]] in CONFIGS


def test_a_benchmark_may_ask_for_it_by_number(kernel):
    number = NAMES.index("hopper-128")
    assert kernel.schedule(problem(64, 128, 0, 0.5), OFF, number) == (number, 1)
    assert kernel.schedule(problem(64, 64, 0, 0.5), OFF, number)[0] == -1  # another packing
    small = Device(132, 99 << 10, 50 << 20, 183, 1269, 2048, 1)
    assert kernel.schedule(problem(64, 128, 0, 0.5), small, number)[0] == -1


def test_it_needs_no_workspace(kernel):
    number = NAMES.index("hopper-128")
    assert kernel.schedule(problem(10**6, 128, 0, 0.5), ON, number)[1] == 1
