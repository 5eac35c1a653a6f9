"""Writes plugins/kernels/turns.h: the simulated clocks by which the plugin chooses among its configurations.

    python benchmarks/kernels/turns.py

Its numbers are those of the planner: from plugins/kernels/sass.json, which issue.py renews, and the table of cards.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[2])]

from patch_compile.planning.roofline.assumptions import ASSUMED
from patch_compile.planning.roofline.choice import (
    DRAM_LATENCY,
    INTERFERENCE,
    L2_LATENCY,
    LOADED_LATENCY,
    SHARED_PACE,
    Turns,
    all_turns,
)
from patch_compile.planning.roofline.schedule import CONFIGS
from patch_compile.plugin.toolchain import plugin_sources

HEADER = plugin_sources() / "kernels" / "turns.h"
_TEXT = """\
// Clocks of an SM by which schedule.h ranks the configurations.  Written by benchmarks/kernels/turns.py, from
// the simulation of their machine code (sass.json) and the table of cards.
#pragma once
#include <cstdint>

#include "kernels/config.h"

namespace patch {{

// clang-format off
inline constexpr int64_t kL2Latency = {l2}, kDramLatency = {dram};  // clocks
inline constexpr int64_t kLoadedLatency = {loaded};  // of DRAM, when all of its bandwidth is used
inline constexpr int64_t kSharedPace = {shared};  // bytes of shared memory in a clock
inline constexpr int64_t kInterference = {interference};  // such a part of the shorter of two times that overlap counts
inline constexpr int kBandwidthPercent = {bandwidth};  // of DRAM's bandwidth, that kernels reach

struct ConfigTurns {{
  int32_t blocks;  // that an SM holds
  int32_t clocks[kKindCount], alone[kKindCount];  // for a slab of each kind; alone: with one block on the SM
}};

struct Turns {{
  int32_t sm, geforce;  // compute capability; 1: fp32 sums at half the rate
  int32_t l2;  // bytes of L2 that an SM gets in a clock
  int32_t dense_fma;  // multiply-adds of 16 bits by cuBLASLt
  ConfigTurns of[kConfigCount];
}};

// By compute capability, GeForce cards behind others.
inline constexpr Turns kTurns[] = {{
{rows}
}};
// clang-format on

}}  // namespace patch
"""


def header() -> str:
    """Returns the text of turns.h."""
    return _TEXT.format(
        l2=L2_LATENCY,
        dram=DRAM_LATENCY,
        loaded=LOADED_LATENCY,
        shared=SHARED_PACE,
        interference=INTERFERENCE,
        bandwidth=round(100 * ASSUMED.bandwidth),
        rows="\n".join(map(_row, all_turns())),
    )


def _row(row: Turns) -> str:
    each = zip(CONFIGS, row.blocks, row.clocks, row.alone, strict=True)
    lines = (
        f"      {{{blocks}, {_list(clocks)}, {_list(alone)}}},  // {config.name}"
        for config, blocks, clocks, alone in each
    )
    return "\n".join(
        [f"    {{{row.sm}, {int(row.geforce)}, {row.l2}, {row.dense_fma}, {{", *lines, "    }},"]
    )


def _list(numbers: Sequence[int]) -> str:
    return f"{{{', '.join(map(str, numbers))}}}"


if __name__ == "__main__":
    HEADER.write_text(header())
