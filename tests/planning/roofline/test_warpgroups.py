"""The prediction for the kernel with wgmma: its bounds by hand."""

import subprocess

import pytest

from masklearn.masks.kinds.table import DENSE, TWO_FOUR
from patch_compile.hardware.cards import card_named
from patch_compile.planning.roofline.assumptions import ASSUMED
from patch_compile.planning.roofline.launch_work import slab_limits
from patch_compile.planning.roofline.linear_roofline import Linear, dense_time, predict
from patch_compile.planning.roofline.schedule import ALL_CONFIGS, HOPPER_CONFIGS
from tests.plugins.host_kernel import COMPILER, PLUGINS

H100 = card_named("H100")
NUMBERS = {config.name: number for number, config in enumerate(ALL_CONFIGS)}


@pytest.mark.skipif(COMPILER is None, reason="no C++ compiler")
def test_block_memory_equals_the_kernels(tmp_path):
    checks = [
        f"static_assert(patch::shared_bytes(patch::kWarpgroupConfigs[{i}]) == {config.shared_bytes});"
        for i, config in enumerate(HOPPER_CONFIGS)
    ]
    (source := tmp_path / "shared.cpp").write_text("\n".join(['#include "kernels/warpgroup.h"', *checks]))
    assert len(checks) >= 4
    subprocess.run([COMPILER, "-std=c++17", "-fsyntax-only", "-I", PLUGINS, source], check=True)


def limits(name, kind):
    return slab_limits(H100, ALL_CONFIGS[NUMBERS[name]], kind, 256, ASSUMED)


def test_a_slab_by_hand():
    """128 rows and 256 tokens: 64 columns of X are 32 KiB, read by both warpgroups; 16 or 9 KiB of W, by one of them."""
    dense, sparse = (limits("hopper-128", kind) for kind in (DENSE, TWO_FOUR))
    assert dense["tensor"] == pytest.approx(128 * 256 * 64 / (2048 * H100.tensor.value), rel=1e-3)
    assert dense["tensor"] == pytest.approx(2 * H100.sparse.value * sparse["tensor"])
    assert dense["shared"] == pytest.approx((3 * 32768 + 2 * 16384) / (128 * 0.85))
    assert sparse["shared"] == pytest.approx((3 * 32768 + 2 * 9216) / (128 * 0.85))
    assert dense["l2"] / sparse["l2"] == pytest.approx(48 / 41)
    assert dense["l2"] / limits("hopper-pair-128", DENSE)["l2"] == pytest.approx(48 / 40)


@pytest.mark.parametrize("name", ["hopper-128", "hopper-pair-128"])
def test_more_2_4_is_never_slower(name):
    shapes = [Linear(11008, 4096, share) for share in (0, 0.3, 0.6, 1)]
    times = [predict(H100, shape, 4096, NUMBERS[name]).microseconds for shape in shapes]
    assert times == sorted(times, reverse=True) and times[0] < 2 * times[-1]
    assert times[0] > dense_time(H100, shapes[0], 4096)[0]  # no faster than cuBLAS with dense slabs
