"""Says what unpacking n:16 slabs costs the kernels: issue slots and simulated cycles of a slab, against what DRAM leaves.

    python benchmarks/kernels/of_sixteen.py [--arch 80] [--budgets benchmarks/kernels/budgets_of_sixteen.json]

The kernels are compiled with n:16 slabs in the place of 2:4 ones. An issue slot is an instruction of one warp; a scheduler
has one a cycle. Shifts, logic, permutations and integer sums, which are most of unpacking, take the integer pipe two cycles,
which the simulation (issue.py) does not know: a slab takes at least the larger of both figures. Needs nvcc and cuobjdump.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parents[2])]
from cubin import PLUGINS, compile_cubin, disassemble, find_cuobjdump
from in_flight import bytes_a_cycle
from issue import blocks_of, cycles_per_slab, executed, timing_of
from sass import way_of

from patch_compile.hardware.cards import rated_cards
from patch_compile.plan.roofline.schedule import CONFIGS, Config
from patch_compile.plugin.toolchain import find_nvcc

__all__ = [
    "BUDGETS",
    "COUNTS",
    "Unpacking",
    "budget_of",
    "figures_of",
    "instances",
    "put_of_sixteen",
    "slab_bytes",
]

BUDGETS = Path(__file__).resolve().with_name("budgets_of_sixteen.json")
COUNTS = (8, 10, 12)
NAMES = ("decode-64", "decode-128", "mid-128", "prefill-64", "prefill-128")

_STREAMS, _ROW = "kernels/streams.cuh", "using Sparse = Sparse24<T, G>;"
_MARK = "SHFL.IDX"  # an instruction that only the loop over n:16 slabs has
_INTEGER = ("IADD3", "ISETP", "LEA", "LOP3", "PLOP3", "PRMT", "SEL", "SHF")
_PIPE = 2  # cycles that one of them takes its scheduler's integer pipe of 16 lanes


class Unpacking(NamedTuple):
    """Figures of one kernel. slots, integer: issue slots, and cycles of the integer pipe, of a scheduler for a slab.

    cycles, dense: simulated cycles that an SM takes for an n:16 and for a dense slab.
    """

    registers: int
    spills: int
    slots: int
    integer: int
    cycles: int
    dense: int


def put_of_sixteen(plugins: Path, count: int) -> None:
    """Give the second stream of a copy of the plugin's sources n:16 slabs, n = `count`, in the place of 2:4 ones."""
    row = plugins / _STREAMS
    text = row.read_text()
    if text.count(_ROW) != 1:
        raise ValueError(f"{row} no longer has the line {_ROW!r}")
    text = text.replace(_ROW, f"using Sparse = OfSixteen<T, G, {count}>;")
    row.write_text(text.replace("#pragma once", '#pragma once\n#include "kernels/decode_of_sixteen.cuh"', 1))


def instances(names: Sequence[str]) -> str:
    """Return a source that compiles the fp16 kernels of some configurations."""
    lines = [f'#include "kernels/{name}_kernel.cuh"' for name in ("stream", "tile")]
    for number, config in enumerate(CONFIGS):
        if config.name in names:
            kernel, arguments = ("stream", "Stream") if config.streams else ("tiles", "Linear")
            lines.append(
                f"template __global__ void patch::patch_{kernel}<patch::Half, {number}>"
                f"(const patch::{arguments}Arguments);"
            )
    return "\n".join(lines) + "\n"


def slab_bytes(config: Config, count: int) -> int:
    """Returns the bytes of an n:16 slab: `count` of 16 values of two bytes, and 16-bit masks of them."""
    return config.panel_rows * 8 * (count + 1)


def figures_of(count: int, arch: int, nvcc: Path, cuobjdump: Path) -> dict[str, Unpacking]:
    """Returns the figures of the kernels with n:16 slabs, n = `count`, by configuration."""
    with tempfile.TemporaryDirectory() as name:
        plugins = Path(name) / "plugins"
        shutil.copytree(PLUGINS / "kernels", plugins / "kernels")
        put_of_sixteen(plugins, count)
        source, cubin = Path(name) / "kernels.cu", Path(name) / "kernels.cubin"
        source.write_text(instances(NAMES))
        kernels = compile_cubin(source, arch, nvcc, cubin, plugins)
        code = disassemble(cubin, cuobjdump)
    found = {}
    for kernel in kernels:
        config = CONFIGS[kernel.config]
        blocks, timing = blocks_of(config, kernel.registers, arch), timing_of(arch)
        way = executed(way_of(code[kernel.config], _MARK), config, slab_bytes(config, count))
        dense = executed(way_of(code[kernel.config], "dense"), config, config.dense_bytes)
        integer = sum(i.opcode.split(".")[0] in _INTEGER for i in way)
        found[config.name] = Unpacking(
            kernel.registers,
            kernel.spill_stores + kernel.spill_loads,
            len(way) * config.warps // 4,
            integer * _PIPE * config.warps // 4,
            round(cycles_per_slab(way, config.warps, timing, blocks)),
            round(cycles_per_slab(dense, config.warps, timing, blocks)),
        )
    return found


def budget_of(figures: Unpacking) -> dict[str, int]:
    """Returns the bounds for one configuration: its figures with some room for edits that do not touch the loop."""
    room = {name: round(1.05 * getattr(figures, name)) for name in ("slots", "integer", "cycles")}
    return {"registers": figures.registers, "spills": figures.spills} | room


def _table(found: dict[int, dict[str, Unpacking]], arch: int) -> str:
    heads = [
        "n",
        "configuration",
        "registers",
        "spills",
        "issue slots",
        "integer pipe",
        "cycles",
        "of a dense slab",
    ]
    lines = [f"| {' | '.join(heads)} |", "| --- " * len(heads) + "|"]
    for count, configs in found.items():
        lines += [f"| {' | '.join(map(str, (count, name, *about)))} |" for name, about in configs.items()]
    cards = [card for card in rated_cards() if card.sm == arch]
    heads = ["n", "configuration", "at least", *(card.name for card in cards)]
    lines += ["", f"| {' | '.join(heads)} |", "| --- " * len(heads) + "|"]
    for count, configs in found.items():
        for config in (c for c in CONFIGS if c.name in configs and c.name.startswith("decode")):
            about = configs[config.name]
            left = [round(slab_bytes(config, count) / bytes_a_cycle(card)) for card in cards]
            lines.append(
                f"| {' | '.join(map(str, (count, config.name, max(about.integer, about.cycles), *left)))} |"
            )
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Compile the fp16 kernels, play their loops, print two tables and write the budgets if asked."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--arch", type=int, default=80, choices=(80, 86, 89, 90))
    parser.add_argument("--budgets", type=Path, help="write the bounds that tests hold the kernels to")
    asked = parser.parse_args(argv)
    nvcc, cuobjdump = find_nvcc(), find_cuobjdump()
    if cuobjdump is None:
        print("error: cuobjdump and nvdisasm are in no CUDA toolkit here", file=sys.stderr)
        return 1
    found = {count: figures_of(count, asked.arch, nvcc.path, cuobjdump) for count in COUNTS}
    print(_table(found, asked.arch))
    if asked.budgets:
        bounds = {
            f"{count}:16": {name: budget_of(about) for name, about in configs.items()}
            for count, configs in found.items()
        }
        about = {"nvcc": nvcc.version, "sm": asked.arch}
        asked.budgets.write_text(json.dumps(about | {"kinds": bounds}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
