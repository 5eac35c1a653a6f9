"""Computes what unpacking n:16 and integers costs: issue slots and simulated cycles of a slab, beside what DRAM leaves.

    python benchmarks/kernels/of_sixteen.py [--arch 80]

An issue slot is an instruction of one warp; a scheduler has one a cycle. Shifts, logic, permutations and integer sums, which
are most of unpacking, take the integer pipe two cycles, which the simulation (issue.py) does not know: a slab takes at least
the larger of both figures. Needs nvcc and cuobjdump.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parents[2])]
from cubin import ARCHS, compile_all, find_cuobjdump
from in_flight import bytes_a_cycle
from issue import blocks_of, cycles_per_slab, executed, slab_bytes, timing_of
from sass import kinds_of, way_of

from patch_compile.hardware.cards import rated_cards
from patch_compile.planning.roofline.schedule import CONFIGS
from patch_compile.plugin.toolchain import find_nvcc

__all__ = ["Unpacking", "figures_of"]

_INTEGER = ("IADD3", "ISETP", "LEA", "LOP3", "PLOP3", "PRMT", "SEL", "SHF")
_PIPE = 2  # cycles that one of them takes its scheduler's integer pipe of 16 lanes


class Unpacking(NamedTuple):
    """Figures of a slab. slots, integer: issue slots, and cycles of the integer pipe, of a scheduler; cycles: simulated,
    of an SM."""

    slots: int
    integer: int
    cycles: int


def figures_of(arch: int, nvcc: Path, cuobjdump: Path) -> dict[str, dict[str, Unpacking]]:
    """Returns the figures of the kernels for all kinds of slabs, by configuration and kind."""
    with tempfile.TemporaryDirectory() as folder:
        kernels, code = compile_all("half", arch, nvcc, cuobjdump, Path(folder))
    found = {}
    for kernel in kernels:
        config = CONFIGS[kernel.config]
        kinds = kinds_of(config)
        if len(kinds) == 2:
            continue
        blocks, timing = blocks_of(config, kernel.registers, arch), timing_of(arch)
        found[config.name] = {}
        for kind in kinds:
            way = executed(
                way_of(code[kernel.config], kind, config.weights), config, slab_bytes(config, kind)
            )
            integer = sum(i.opcode.split(".")[0] in _INTEGER for i in way)
            found[config.name][kind] = Unpacking(
                len(way) * config.warps // 4,
                integer * _PIPE * config.warps // 4,
                round(cycles_per_slab(way, config.warps, timing, blocks)),
            )
    return found


def _table(found: dict[str, dict[str, Unpacking]], arch: int) -> str:
    cards = [card for card in rated_cards() if card.sm == arch]
    heads = ["configuration", "kind", "issue slots", "integer pipe", "cycles"]
    heads += [f"DRAM leaves on {card.name}" for card in cards]
    lines = [f"| {' | '.join(heads)} |", "| --- " * len(heads) + "|"]
    for config in CONFIGS:
        for kind, about in found.get(config.name, {}).items():
            left = [round(slab_bytes(config, kind) / bytes_a_cycle(card)) for card in cards]
            lines.append(f"| {' | '.join(map(str, (config.name, kind, *about, *left)))} |")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Compile the fp16 kernels, simulate their loops and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--arch", type=int, default=80, choices=ARCHS)
    asked = parser.parse_args(argv)
    nvcc, cuobjdump = find_nvcc(), find_cuobjdump()
    if cuobjdump is None:
        print("error: cuobjdump and nvdisasm are in no CUDA toolkit here", file=sys.stderr)
        return 1
    print(_table(figures_of(asked.arch, nvcc.path, cuobjdump), asked.arch))
    return 0


if __name__ == "__main__":
    sys.exit(main())
