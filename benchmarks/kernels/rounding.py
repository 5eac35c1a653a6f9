"""Compares the instructions of the kernel that rounds X with the pace at which DRAM moves its bytes.

    python benchmarks/kernels/rounding.py [--arch 80]

Prints, for every card, the values that its SMs issue the instructions for and the values that its DRAM moves in a clock: 2
bytes are read and 1 is written. A model that has X in L2 waits for the instructions alone. Needs nvcc and cuobjdump.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parents[2])]
from cubin import ARCHS, FLAGS, PLUGINS, SOURCES, Instruction, find_cuobjdump, functions_of

from patch_compile.hardware.cards import RatedCard, rated_cards
from patch_compile.plugin.toolchain import find_nvcc

_NAME = "patch_quantise"
_ISSUED = 4 * 32  # instructions of threads in a clock of an SM
VALUES = 16  # that a thread rounds
_BYTES = 3  # of DRAM for a value
# What a thread does once: loads of X in both passes, the warp's largest, conversions, the store.
_ONCE = ("LDG.E.128", "SHFL", "BAR.SYNC", "F2I.NTZ", "STG.E.128")


def rounding_code(binary: Path, cuobjdump: Path) -> list[Instruction]:
    """Returns the instructions of the kernel in a binary of one architecture."""
    (found,) = (f.code for name, f in functions_of(binary, cuobjdump).items() if _NAME in name)
    return found


def rounding_way(code: Sequence[Instruction]) -> list[Instruction]:
    """Returns what a thread executes that rounds 16 values of aligned rows: the shortest way with all of `_ONCE`.

    Branches back and calls, of division's rare cases, are not taken. Raises ValueError if there is no such way.
    """
    at = {i.address: n for n, i in enumerate(code)}
    wanted = tuple(sum(i.opcode.startswith(one) for i in code) for one in _ONCE)
    ways: list[dict[tuple[int, ...], list[int]]] = [{} for _ in code]
    ways[0] = {(0,) * len(_ONCE): []}
    for n, i in enumerate(code):
        for counts, way in ways[n].items():
            state = tuple(c + i.opcode.startswith(one) for c, one in zip(counts, _ONCE, strict=True))
            if i.opcode == "EXIT" and not i.guard and state == wanted:
                return [*(code[m] for m in way), i]
            for follower in _followers(code, at, n):
                known = ways[follower].get(state)
                if known is None or len(way) + 1 < len(known):
                    ways[follower][state] = [*way, n]
    raise ValueError(f"no way has {dict(zip(_ONCE, wanted, strict=True))}")


def _followers(code: Sequence[Instruction], at: dict[int, int], n: int) -> list[int]:
    i, target = code[n], at.get(code[n].target)
    if i.opcode.startswith(("CALL", "RET")) or (i.opcode == "EXIT" and not i.guard):
        return []
    conditional = i.guard or "P" in i.operands.partition("0x")[0] or i.opcode == "BRA.DIV"
    follows = [n + 1] if n + 1 < len(code) and (not i.branches or conditional) else []
    return follows + ([target] if target is not None and target > n else [])


def issued_values(instructions: int) -> float:
    """Returns the values of X in a clock for which an SM issues the instructions."""
    return _ISSUED * VALUES / instructions


def moved_values(card: RatedCard) -> float:
    """Returns the values of X in a clock whose bytes DRAM moves for an SM."""
    return card.bytes_a_clock / _BYTES


def main(argv: Sequence[str] | None = None) -> int:
    """Compile the kernel and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--arch", type=int, action="append", choices=ARCHS)
    asked = parser.parse_args(argv)
    nvcc, cuobjdump = find_nvcc(), find_cuobjdump()
    if cuobjdump is None:
        print("error: cuobjdump and nvdisasm are in no CUDA toolkit here", file=sys.stderr)
        return 1
    print(
        "| card | instructions a value | values an SM issues in a clock | values DRAM moves | share of DRAM's pace |"
    )
    print("| --- " * 5 + "|")
    with tempfile.TemporaryDirectory() as folder:
        for arch in asked.arch or ARCHS:
            binary = Path(folder) / f"{arch}.cubin"
            command = [
                nvcc.path,
                *FLAGS,
                f"-arch=sm_{arch}",
                "-I",
                PLUGINS,
                SOURCES["w8a8_half"],
                "-o",
                binary,
            ]
            subprocess.run(command, capture_output=True, check=True)
            _print(arch, len(rounding_way(rounding_code(binary, cuobjdump))))
    return 0


def _print(arch: int, instructions: int) -> None:
    for card in rated_cards():
        if card.sm == arch:
            issued, moved = issued_values(instructions), moved_values(card)
            share = min(1.0, issued / moved)
            print(f"| {card.name} | {instructions / VALUES:.1f} | {issued:.1f} | {moved:.1f} | {share:.0%} |")


if __name__ == "__main__":
    sys.exit(main())
