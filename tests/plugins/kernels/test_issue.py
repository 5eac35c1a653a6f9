"""The simulator of a loop's issue, on loops short enough to count their cycles by hand."""

import importlib
import itertools
import json
import sys
from dataclasses import replace

import pytest

from patch_compile.planning.roofline.assumptions import ASSUMED
from patch_compile.planning.roofline.launch_work import bytes_in_flight
from patch_compile.planning.roofline.schedule import CONFIGS
from tests.plugins.host_kernel import BENCH

sys.path.insert(0, str(BENCH))
issue, cubin, sass = (importlib.import_module(name) for name in ("issue", "cubin", "sass"))

TIMING = issue.timing_of(80)
NONE = 7


def instruction(opcode, operands="", guard="", stall=1, writes=NONE, reads=NONE, waits=0):
    upper = stall << 41 | writes << 46 | reads << 49 | waits << 52
    return cubin.Instruction(0, guard, opcode, operands, upper)


HMMA, BARRIER = instruction("HMMA.16816.F32"), instruction("BAR.SYNC", "0x0")
IMMA = instruction("IMMA.16832.S8.S8")


def test_control_words_are_read():
    i = instruction("LDS.128", stall=5, writes=3, reads=2, waits=0b100101)
    assert (i.stall, i.writes, i.reads, i.waits) == (5, 3, 2, 0b100101)


@pytest.mark.parametrize(
    ("warps", "blocks", "expected"), [(4, 1, 8 * 64), (8, 1, 2 * 8 * 64), (4, 2, 8 * 64)]
)
def test_products_alone_take_the_tensor_cores_time(warps, blocks, expected):
    """One warp per scheduler multiplies a slab in 8 cycles a product; a second block hides the barrier of the first."""
    cycles = issue.cycles_per_slab([BARRIER, *[HMMA] * 64], warps, TIMING, blocks)
    assert expected <= cycles <= expected + (TIMING.barrier + 2 if blocks == 1 else 10)


def test_a_stall_delays_the_next_instruction():
    way = [BARRIER, *[instruction("IADD3", stall=6)] * 50]
    assert issue.cycles_per_slab(way, 4, TIMING) == pytest.approx(TIMING.barrier + 50 * 6, abs=1)


@pytest.mark.parametrize(
    ("load", "cycles"),
    [("LDS.128", 4), ("LDS.64", 2), ("LDS", 1), ("LDS.U16", 1), ("LDSM.16.M88.4", 4), ("SHFL.IDX", 1)],
)
def test_loads_take_the_time_of_their_bytes(load, cycles):
    """Shared memory moves 128 bytes a cycle; shuffles wait in its queue."""
    way = [BARRIER, *[instruction(load, writes=0)] * 100, instruction("IADD3", waits=1)]
    taken = issue.cycles_per_slab(way, 4, TIMING)
    assert taken == pytest.approx(400 * cycles + TIMING.shared + TIMING.barrier, abs=8)


def test_a_scoreboard_is_waited_for():
    way = [BARRIER, instruction("LDS.128", writes=2), instruction("IADD3", waits=0b100)]
    alone = issue.cycles_per_slab(way, 4, TIMING)
    assert alone == pytest.approx(
        TIMING.barrier + TIMING.shared + 4 * 4 + 1, abs=2
    )  # behind three other warps' reads
    assert issue.cycles_per_slab([way[0], way[1], instruction("IADD3")], 4, TIMING) < alone - 20


def pace(opcode, timing):
    """Cycles between two instructions of a scheduler in a long loop of them."""
    way = [BARRIER, *[instruction(opcode)] * 64]
    return issue.cycles_per_slab(way, 4, timing, blocks=2) / 64


def latency(opcode, timing):
    """Cycles from an instruction to one that needs its result."""
    way = [instruction(opcode, writes=0), instruction("IADD3", waits=1), BARRIER]
    return issue.cycles_per_slab(way, 1, timing) - timing.barrier - 1


@pytest.mark.parametrize(
    ("arch", "geforce", "opcode", "cycles"),
    [
        (86, False, "HMMA.16816.F32", 16),
        (86, True, "HMMA.16816.F32", 32),
        (86, True, "IMMA.16832.S8.S8", 16),
        (80, False, "IMMA.16832.S8.S8", 8),
        (120, False, "HMMA.16816.F32", 16),
        (120, True, "HMMA.16816.F32", 32),
        (120, True, "IMMA.16832.S8.S8", 16),
        (120, False, "HMMA.SP.16832.F32", 16),
        (80, False, "HMMA.16816.F32", 8),
        (80, False, "HMMA.SP.16832.F32", 8),
    ],
)
def test_tensor_cores_keep_published_paces(arch, geforce, opcode, cycles):
    """By microbenchmarks of a consumer Blackwell (with fp32 sums half as fast) and of an A100 (arXiv 2206.02874).

    Of sm_86 by the table of cards. An IMMA has twice an HMMA's multiply-adds, and GeForce cards do not halve its rate.
    """
    assert pace(opcode, issue.timing_of(arch, geforce)) == pytest.approx(cycles, rel=0.02)


def test_small_sparse_products_are_no_faster_than_published():
    """An A100 runs 2:4 products of half the columns at .65 of the others' rate (arXiv 2206.02874)."""
    small, large = (pace(f"IMMA.SP.{size}.S8.S8", TIMING) for size in (16832, 16864))
    assert large / 2 / small <= 0.65


def test_hopper_multiplies_as_measured():
    """mma.sync has 62.9 % of an H800's rate, and mma.sp 1.42 times that (arXiv 2402.13499)."""
    timing = issue.timing_of(90)
    dense, sparse = pace("HMMA.16816.F32", timing), pace("HMMA.SP.16832.F32", timing)
    assert 2048 / dense * 4 / 2048 == pytest.approx(0.629, rel=0.02)
    assert 2 * dense / sparse == pytest.approx(1.42, rel=0.02)


def test_latencies_are_as_published():
    """A100: mma 24.0 and mma.sp 24.1 (arXiv 2206.02874), a load of 4 bytes 29 (arXiv 2402.13499); cycles."""
    assert latency("HMMA.16816.F32", TIMING) == pytest.approx(24.0, abs=1)
    assert latency("HMMA.SP.16832.F32", TIMING) == pytest.approx(24.1, abs=1)
    assert latency("LDS", TIMING) == 29
    assert latency("LDS.128", TIMING) == 29 + 3  # the last of its four wavefronts
    assert 466 <= TIMING.copy <= 541  # DRAM
    assert 208 <= ASSUMED.l2_latency <= 357  # near and far


def test_no_loop_outruns_its_resources():
    """The stored cycles of every loop are at least what its products and its bytes from L2 take."""
    for arch, configs in json.loads(sass.JSON.read_text())["kernels"].items():
        for (config, kind), geforce in itertools.product(loops(configs), (False, True)):
            timing, counts = issue.timing_of(int(arch.removeprefix("sm_")), geforce), configs[config.name]
            products = sum(counts[kind][name] * timing.of(name) for name in counts[kind] if "MMA" in name)
            bytes_of_l2 = issue.slab_bytes(config, kind) + config.x_bytes
            least = max(products * config.warps / 4, bytes_of_l2 / timing.l2)
            for cycles in (counts["cycles"], counts["alone"]):
                assert cycles[kind][geforce] >= least - 1, (arch, config.name, kind)


def loops(configs):
    assert list(configs) == [config.name for config in CONFIGS]
    return [(config, kind) for config in CONFIGS for kind in sass.kinds_of(config)]


def test_a_group_of_copies_is_waited_for():
    copy, group = instruction("LDGSTS.E.BYPASS.128", "[R0], [R2.64]"), instruction("LDGDEPBAR", writes=0)
    at_once = [copy, group, instruction("DEPBAR.LE", "SB0, 0x0"), BARRIER]
    assert issue.cycles_per_slab(at_once, 4, TIMING) > TIMING.copy
    a_turn_later = [copy, group, instruction("DEPBAR.LE", "SB0, 0x1"), *[HMMA] * 100, BARRIER]
    assert issue.cycles_per_slab(a_turn_later, 4, TIMING) < 8 * 100 + TIMING.barrier + 30


DECODE = next(config for config in CONFIGS if config.name == "decode-128")


@pytest.mark.parametrize(("kind", "slab"), [("dense", 128 * 128), ("2:4", 128 * 72)])
def test_all_slots_but_one_are_under_way(kind, slab):
    assert issue.slab_bytes(DECODE, kind) == slab
    assert bytes_in_flight(DECODE, slab, 2) == 2 * 3 * slab


def test_a_way_of_two_slabs_has_two_barriers():
    one = issue.cycles_per_slab([BARRIER, *[IMMA] * 48], 4, TIMING, blocks=2)
    two = issue.cycles_per_slab([BARRIER, *[IMMA] * 32, BARRIER, *[IMMA] * 64], 4, TIMING, blocks=2)
    assert two == pytest.approx(one, rel=0.05)


def test_stalls_count_from_the_loops_barrier():
    way = [instruction("IADD3", stall=4), HMMA, instruction("IADD3"), BARRIER, instruction("IADD3", stall=7)]
    assert issue.stalls_to_first_product(way) == 1 + 7 + 4


def test_needless_copies_are_not_executed():
    config = replace(
        CONFIGS[0], tokens=16
    )  # 64 rows and 4 warps: a 2:4 slab takes 3 of a dense slab's 4 copies
    copies = [
        instruction("LDGSTS.E.BYPASS.LTC128B.128", f" [R0{at}], desc[UR4][R2.64] ", guard="@!P1")
        for at in ("", "+0x800", "+0x1000", "+0x1800")
    ]
    of_x = instruction("LDGSTS.E.BYPASS.LTC128B.128", " [R0+0x2000], [R2.64], P2 ", guard="@!P3")
    narrow = instruction("LDGSTS.E.LTC128B.64", " [R0+0x2000], [R2.64], !P2 ", guard="@!P4")
    way = [copies[0], of_x, narrow, *copies[1:]]
    off = {
        kind: [i.guard == "@!PT" for i in issue.executed(way, config, issue.slab_bytes(config, kind))]
        for kind in ("dense", "2:4")
    }
    assert off["dense"] == [False, False, True, False, False, False]
    assert off["2:4"] == [False, False, True, False, False, True]
