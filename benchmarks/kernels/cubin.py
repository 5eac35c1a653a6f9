"""Kernels as machine code: nvcc compiles them, ptxas gives their figures, cuobjdump their SASS."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

from patch_compile.plugin.toolchain import cuda_folders, plugin_sources

__all__ = [
    "ARCHS",
    "FLAGS",
    "PLUGINS",
    "SOURCES",
    "Instruction",
    "Kernel",
    "compile_all",
    "compile_cubin",
    "disassemble",
    "find_cuobjdump",
    "functions_of",
]

PLUGINS = plugin_sources()
# Kernels of each type for the kinds of PATCH, for all kinds of slabs, and for those of integers.
KERNELS = ("", "all_", "int8_", "int4_")
SOURCES = {
    f"{kernels}{scalar}": PLUGINS / "kernels" / f"launch_{kernels}{scalar}.cu"
    for kernels in KERNELS
    for scalar in ("half", "bfloat16")
}
ARCHS = (80, 86, 89, 90, 120)
FLAGS = ("-std=c++17", "-O3", "-DNDEBUG", "-cubin", "-Xptxas=-v")

_ENTRY = re.compile(
    r"Compiling entry function '(\w+)'.*?(\d+) bytes stack frame, (\d+) bytes spill stores, "
    r"(\d+) bytes spill loads.*?Used (\d+) registers",
    re.S,
)
_CONFIG = re.compile(
    r"patch_(?:tiles|stream)I.*?ELi(\d+)E"
)  # number of the configuration in the template's arguments
# Address, predicate, opcode, operands; the instruction's 128 bits are two words, the second on a line of its own.
_INSTRUCTION = re.compile(
    r"/\*([0-9a-f]{4,})\*/\s+(?:(@!?U?P\w+)\s+)?([A-Z][\w.]*)([^;]*);"
    r"(?:\s+/\* 0x[0-9a-f]{16} \*/\s+/\* 0x([0-9a-f]{16}) \*/)?"
)


class Kernel(NamedTuple):
    """ptxas's figures of one kernel, in bytes per thread. config: index in the table of configurations."""

    config: int
    stack: int
    spill_stores: int
    spill_loads: int
    registers: int


class Instruction(NamedTuple):
    """One line of SASS. guard: its predicate, empty for none. upper: the upper 64 of its 128 bits.

    Bits 41 and above of `upper` control issue since sm_70: Jia et al. 2018 (arXiv 1804.06826), section 2.1.
    """

    address: int
    guard: str
    opcode: str
    operands: str
    upper: int = 0

    @property
    def stall(self) -> int:
        """Returns the cycles until the warp's next instruction may issue."""
        return self.upper >> 41 & 15

    @property
    def writes(self) -> int:
        """Returns the scoreboard that is released when the result is there; 7 for none."""
        return self.upper >> 46 & 7

    @property
    def reads(self) -> int:
        """Returns the scoreboard that is released when the operands are read; 7 for none."""
        return self.upper >> 49 & 7

    @property
    def waits(self) -> int:
        """Returns a bit for each scoreboard that must be released before."""
        return self.upper >> 52 & 63

    @property
    def branches(self) -> bool:
        return self.opcode.startswith("BRA")

    @property
    def target(self) -> int:
        """Target address of a branch; -1 for other instructions."""
        if not self.branches:
            return -1
        return int(re.findall(r"0x([0-9a-f]+)", self.operands)[-1], 16)


def compile_cubin(source: Path, arch: int, nvcc: Path, cubin: Path, plugins: Path = PLUGINS) -> list[Kernel]:
    """Compile one source for one architecture and return its kernels in the order of the table of configurations."""
    command = [str(nvcc), *FLAGS, f"-arch=sm_{arch}", "-I", str(plugins), str(source), "-o", str(cubin)]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    found = ((_CONFIG.search(name), numbers) for name, *numbers in _ENTRY.findall(said))
    return sorted(Kernel(int(match[1]), *map(int, numbers)) for match, numbers in found if match)


def compile_all(
    scalar: str, arch: int, nvcc: Path, cuobjdump: Path, folder: Path
) -> tuple[list[Kernel], dict[int, list[Instruction]]]:
    """Compile all kernels of a scalar type, and return ptxas's figures and their instructions by configuration."""
    kernels: list[Kernel] = []
    code: dict[int, list[Instruction]] = {}
    for name in (f"{kernel}{scalar}" for kernel in KERNELS):
        cubin = folder / f"{name}-{arch}.cubin"
        kernels += compile_cubin(SOURCES[name], arch, nvcc, cubin)
        code |= disassemble(cubin, cuobjdump)
    return kernels, code


def disassemble(cubin: Path, cuobjdump: Path) -> dict[int, list[Instruction]]:
    """Instructions of every kernel, by its index in the table of configurations."""
    named = ((_CONFIG.search(name), code) for name, code in functions_of(cubin, cuobjdump).items())
    return {int(match[1]): code for match, code in named if match}


def functions_of(cubin: Path, cuobjdump: Path) -> dict[str, list[Instruction]]:
    """Instructions of every kernel, by its mangled name."""
    path = os.pathsep.join([str(cuobjdump.parent), os.environ.get("PATH", "")])  # cuobjdump calls nvdisasm
    command = [str(cuobjdump), "-sass", str(cubin)]
    said = subprocess.run(
        command, capture_output=True, text=True, check=True, env=os.environ | {"PATH": path}
    ).stdout
    functions = (text.partition("\n") for text in said.split("Function : ")[1:])
    return {
        name.strip(): [
            Instruction(int(a, 16), *rest, int(upper or "0", 16))
            for a, *rest, upper in _INSTRUCTION.findall(body)
        ]
        for name, _, body in functions
    }


def find_cuobjdump() -> Path | None:
    """Find cuobjdump with nvdisasm in a CUDA toolkit, else in the nvidia-cuda-cuobjdump and -nvdisasm packages."""
    for folder in cuda_folders():
        found = shutil.which("cuobjdump", path=str(folder))
        if found and shutil.which(
            "nvdisasm", path=os.pathsep.join([str(folder), os.environ.get("PATH", "")])
        ):
            return Path(found)
    return None
