"""Little's law for decode kernels, on loops short enough to know the latency that they hide."""

import importlib
import sys

import pytest

from patch_compile.hardware.cards import card_named
from patch_compile.planning.roofline.schedule import CONFIGS
from tests.plugins.host_kernel import BENCH
from tests.plugins.kernels.test_issue import BARRIER, HMMA, TIMING, instruction

sys.path.insert(0, str(BENCH))
in_flight = importlib.import_module("in_flight")

DECODE = next(config for config in CONFIGS if config.name == "decode-128")


def test_an_sm_gets_its_share_of_the_bandwidth():
    assert in_flight.bytes_a_cycle(card_named("A100-80")) == pytest.approx(2039 / 108 / 1.41)


@pytest.mark.parametrize(("kind", "slab"), [("dense", 128 * 128), ("2:4", 128 * 72)])
def test_all_slots_but_one_are_under_way(kind, slab):
    assert in_flight.slab_bytes(DECODE, kind) == slab
    assert in_flight.bytes_in_flight(DECODE, kind, 2) == 2 * 3 * slab


@pytest.mark.parametrize("groups", [1, 2, 3])
def test_loops_hide_copies_behind_turns(groups):
    copy, group = instruction("LDGSTS.E.BYPASS.128", "[R0], [R2.64]"), instruction("LDGDEPBAR", writes=0)
    way = [copy, group, instruction("DEPBAR.LE", f"SB0, 0x{groups}"), *[HMMA] * 100, BARRIER]
    turn = 8 * 100 + TIMING.barrier
    hidden = in_flight.longest_latency(way, DECODE, TIMING, 1, turn)
    assert groups * turn - 30 <= hidden <= groups * 1.02 * turn + 30
    assert in_flight.longest_latency(way, DECODE, TIMING, 1, turn / 2) == 0  # the products take longer
