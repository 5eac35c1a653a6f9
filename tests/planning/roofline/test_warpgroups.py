"""The prediction for the kernel with wgmma: its bounds by hand."""

import importlib
import subprocess
import sys

import pytest

from patch_compile.hardware.cards import card_named
from patch_compile.planning.roofline.linear_roofline import Linear, dense_time
from tests.plugins.host_kernel import BENCH, COMPILER, PLUGINS

sys.path.insert(0, str(BENCH))
warpgroups = importlib.import_module("warpgroups")
CONFIGS = {config.name: config for config in warpgroups.CONFIGS}


@pytest.mark.skipif(COMPILER is None, reason="no C++ compiler")
def test_block_memory_equals_the_kernels(tmp_path):
    checks = [
        f"static_assert(patch::shared_bytes(patch::kWarpgroupConfigs[{i}]) == {config.shared_bytes});"
        for i, config in enumerate(warpgroups.CONFIGS)
    ]
    (source := tmp_path / "shared.cpp").write_text("\n".join(['#include "kernels/warpgroup.h"', *checks]))
    assert len(checks) >= 4
    subprocess.run([COMPILER, "-std=c++17", "-fsyntax-only", "-I", PLUGINS, source], check=True)


def test_a_slab_by_hand():
    """128 rows and 256 tokens: 64 columns of X are 32 KiB, read by both warpgroups; 16 or 9 KiB of W, by one of them."""
    wide, pair = CONFIGS["hopper-128"], CONFIGS["hopper-pair-128"]
    card = card_named("H100")
    dense, sparse = (warpgroups.slab_clocks(card, wide, kind) for kind in (False, True))
    assert (
        dense["tensor"]
        == pytest.approx(2 * sparse["tensor"])
        == pytest.approx(128 * 256 * 64 / (2048 * card.tensor.value), rel=1e-3)
    )
    assert dense["shared"] == pytest.approx((3 * 32768 + 2 * 16384) / (128 * 0.85))
    assert sparse["shared"] == pytest.approx((3 * 32768 + 2 * 9216) / (128 * 0.85))
    assert dense["l2"] / sparse["l2"] == pytest.approx(48 / 41)
    assert dense["l2"] / warpgroups.slab_clocks(card, pair, False)["l2"] == pytest.approx(48 / 40)


def test_more_2_4_is_never_slower():
    card = card_named("H100")
    for config in (CONFIGS["hopper-128"], CONFIGS["hopper-pair-128"]):
        shapes = [Linear(11008, 4096, share) for share in (0, 0.3, 0.6, 1)]
        times = [warpgroups.warpgroup_time(card, config, shape, 4096) for shape in shapes]
        assert times == sorted(times, reverse=True) and times[0] < 2 * times[-1]
        assert times[0] > dense_time(card, shapes[0], 4096)[0]  # no faster than cuBLAS with dense slabs
