"""Counts the instructions and cycles that a slab costs in the kernels' machine code, and writes them to sass.json.

    python benchmarks/kernels/sass.py [--out plugins/kernels/sass.json]

Needs nvcc and cuobjdump. The instructions of one slab are the shortest path through the loop that multiplies it which
issues all copies and reads the place of the next slab.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parents[2])]
from cubin import ARCHS, FLAGS, SOURCES, Instruction, Kernel, compile_cubin, disassemble, find_cuobjdump

from patch_compile.plan.roofline.schedule import CONFIGS
from patch_compile.plugin.toolchain import find_nvcc

__all__ = ["JSON", "KINDS", "count_slab", "loop_of", "sass_counts", "way_of"]

JSON = Path(__file__).resolve().parents[2] / "plugins" / "kernels" / "sass.json"
# Instruction that multiplies a slab, by kind: m16n8k16 dense, m16n8k32 with 2:4 operand A.
KINDS = {"dense": "HMMA.16816", "sparse": "HMMA.SP.16832"}
_COUNTED = ("HMMA.SP", "HMMA", "LDSM", "LDS.128", "LDS", "LDGSTS")  # the first match counts
_LEAVES = ("EXIT", "RET")
_UNIFORM = re.compile(r"\s*!?UP\d")


def count_slab(code: Sequence[Instruction], kind: str) -> dict[str, int]:
    """Instructions of one warp for one slab of `kind`, by opcode, with those that a predicate turns off."""
    counts = Counter(_class_of(i) for i in way_of(code, kind))
    return {name: counts[name] for name in (*_COUNTED, "other")}


def _class_of(i: Instruction) -> str:
    if i.guard == "@!PT":  # padding of ptxas: issued, never executed
        return "other"
    return next((name for name in _COUNTED if f"{i.opcode}.".startswith(f"{name}.")), "other")


def loop_of(code: Sequence[Instruction], multiply: str) -> Sequence[Instruction]:
    """The innermost loop around an instruction."""
    at = {i.address: n for n, i in enumerate(code)}
    loops = []
    for end, i in enumerate(code):
        begin = at.get(i.target, end + 1)
        if begin <= end and any(inside.opcode.startswith(multiply) for inside in code[begin : end + 1]):
            loops.append(code[begin : end + 1])
    if not loops:
        raise ValueError(f"no loop around {multiply}")
    return min(loops, key=len)


def way_of(code: Sequence[Instruction], kind: str) -> list[Instruction]:
    """Shortest path through the loop over slabs of `kind` that issues all copies and reads the place of the next slab.

    kind: one of KINDS, or an opcode that only its loop has.

    Branches back (loops over tiles without a slab) are never taken, so addresses order the search.
    """
    loop = loop_of(code, KINDS.get(kind, kind))
    at = {i.address: n for n, i in enumerate(loop)}
    # per instruction: (LDGSTS so far, index read) -> shortest path to it
    ways: list[dict[tuple[int, bool], list[int]]] = [{} for _ in loop]
    ways[0] = {(0, False): []}
    for n, i in enumerate(loop):
        for (copied, read), way in ways[n].items():
            state = (copied + i.opcode.startswith("LDGSTS"), read or i.opcode.startswith("LDG."))
            for follower in _followers(loop, at, n):
                known = ways[follower].get(state)
                if known is None or len(way) + 1 < len(known):
                    ways[follower][state] = [*way, n]
    copies = sum(i.opcode.startswith("LDGSTS") for i in loop)
    if copies == 0 or (copies, True) not in ways[-1]:
        raise ValueError(f"no way through the loop with {copies} copies")
    return [*(loop[n] for n in ways[-1][copies, True]), loop[-1]]


def _followers(loop: Sequence[Instruction], at: dict[int, int], n: int) -> list[int]:
    i, found = loop[n], []
    target = at.get(i.target)
    if target is not None and target > n:
        found.append(target)
    # Newer architectures write the predicate of a uniform branch as an operand: BRA.U !UP0, 0x100. BRA.DIV is taken by a
    # warp whose lanes have diverged, to a copy of the instruction after it that brings them together; none does.
    conditional = i.guard or _UNIFORM.match(i.operands) or i.opcode == "BRA.DIV"
    always = not conditional and (i.branches or i.opcode in _LEAVES)
    if not always and n + 1 < len(loop):
        found.append(n + 1)
    return found


def sass_counts(arch: int, nvcc: Path, cuobjdump: Path, folder: Path) -> dict[str, dict[str, object]]:
    """Registers, instructions and cycles per slab of the fp16 kernel of every configuration that the roofline knows.

    cycles: by kind, of an SM with the architecture's full tensor rate, and of one with a GeForce card's half.
    """
    from issue import loop_figures  # which finds the loops by this module

    cubin = folder / f"half-{arch}.cubin"
    kernels = compile_cubin(SOURCES["half"], arch, nvcc, cubin)
    code = disassemble(cubin, cuobjdump)

    def cycles(kernel: Kernel, kind: str) -> list[int]:
        config = CONFIGS[kernel.config]
        rates = (False, True)
        return [
            loop_figures(code[kernel.config], config, kind, kernel.registers, arch, g).cycles for g in rates
        ]

    return {
        CONFIGS[k.config].name: {
            "registers": k.registers,
            "cycles": {kind: cycles(k, kind) for kind in KINDS},
        }
        | {kind: count_slab(code[k.config], kind) for kind in KINDS}
        for k in kernels
        if not CONFIGS[k.config].gated
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Compile, count and write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=JSON)
    asked = parser.parse_args(argv)
    nvcc, cuobjdump = find_nvcc(), find_cuobjdump()
    if cuobjdump is None:
        print("error: cuobjdump and nvdisasm are in no CUDA toolkit here", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory() as folder:
        counts = {f"sm_{arch}": sass_counts(arch, nvcc.path, cuobjdump, Path(folder)) for arch in ARCHS}
    about = {"nvcc": nvcc.version, "flags": " ".join(FLAGS)}
    asked.out.write_text(json.dumps(about | {"kernels": counts}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
