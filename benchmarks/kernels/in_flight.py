"""Checks if a decode kernel has enough bytes in flight for DRAM's bandwidth, by Little's law and by simulating its loop.

    python benchmarks/kernels/in_flight.py [--arch 80] [--arch 90]

An SM gets its share of the bandwidth only while it has  bandwidth x latency  bytes under way. When a turn of the ring waits
for the next slab, the slabs of all other slots except one are under way. The longest latency with which the simulated loop
(issue.py) still takes a slab in the time that DRAM needs for it says the same of the whole loop, its products included.
Neither method knows how much longer a busy DRAM takes than an idle DRAM. Needs nvcc and cuobjdump.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parents[2])]
from cubin import ARCHS, Instruction, compile_all, find_cuobjdump
from issue import Timing, blocks_of, cycles_per_slab, executed, slab_bytes, timing_of
from sass import kinds_of, way_of

from patch_compile.hardware.cards import RatedCard, rated_cards
from patch_compile.planning.roofline.schedule import CONFIGS, Config
from patch_compile.plugin.toolchain import find_nvcc

_LONGEST = 8192  # cycles
_ARCHS = (80, 90)  # of cards whose DRAM is fast for their SMs


def bytes_in_flight(config: Config, kind: str, blocks: int) -> int:
    """Returns the bytes that the blocks of an SM have under way while all of them wait for their next slab."""
    return blocks * (config.stages - 1) * slab_bytes(config, kind)


def bytes_a_cycle(card: RatedCard) -> float:
    """Returns an SM's share of the bandwidth of DRAM."""
    return card.bandwidth / card.sms / card.clock


def longest_latency(
    way: Sequence[Instruction], config: Config, timing: Timing, blocks: int, budget: float
) -> int:
    """Returns the longest latency of copies, in cycles, with which an SM takes a slab in `budget` cycles; 0 for none."""

    def fits(latency: int) -> bool:
        turns = 3 * config.stages + 4  # past the copies that are under way at the begin
        return (
            cycles_per_slab(way, config.warps, replace(timing, copy=latency), blocks, turns) <= 1.01 * budget
        )

    return _last(fits, _LONGEST)


def _last(fits: Callable[[int], bool], most: int) -> int:
    """Returns the largest number up to `most` that fits, if all smaller ones do."""
    low, high = 0, most + 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def _rows(code: dict[int, list[Instruction]], registers: dict[int, int], arch: int) -> list[list[object]]:
    rows: list[list[object]] = []
    timing = timing_of(arch)
    for number, config in enumerate(CONFIGS):
        if "decode" not in config.name:
            continue
        blocks = blocks_of(config, registers[number], arch)
        for kind in kinds_of(config):
            way = executed(way_of(code[number], kind, config.weights), config, slab_bytes(config, kind))
            for card in rated_cards():
                if card.sm != arch:
                    continue
                share, size = bytes_a_cycle(card), slab_bytes(config, kind)
                longest = longest_latency(way, config, timing, blocks, size / share)
                have, need = bytes_in_flight(config, kind, blocks), share * timing.copy
                rows.append([
                    card.name, config.name, kind, f"{have / 1024:.0f}", f"{need / 1024:.1f}", f"{have / need:.1f}",
                    round(size / share), longest,
                ])  # fmt: skip
    return rows


def main(argv: Sequence[str] | None = None) -> int:
    """Compile the fp16 kernels and print a table of the decode configurations."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--arch", type=int, action="append", choices=ARCHS)
    asked = parser.parse_args(argv)
    nvcc, cuobjdump = find_nvcc(), find_cuobjdump()
    if cuobjdump is None:
        print("error: cuobjdump and nvdisasm are in no CUDA toolkit here", file=sys.stderr)
        return 1
    heads = [
        "card",
        "configuration",
        "kind",
        "KiB in flight",
        f"KiB that {Timing(1).copy} cycles need",
        "times",
    ]
    heads += ["cycles of DRAM for a slab", "longest latency hidden"]
    print(f"| {' | '.join(heads)} |", "| --- " * len(heads) + "|", sep="\n")
    with tempfile.TemporaryDirectory() as folder:
        for arch in asked.arch or _ARCHS:
            kernels, code = compile_all("half", arch, nvcc.path, cuobjdump, Path(folder))
            registers = {k.config: k.registers for k in kernels}
            for row in _rows(code, registers, arch):
                print(f"| {' | '.join(map(str, row))} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
