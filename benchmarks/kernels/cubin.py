"""Kernels as machine code: nvcc compiles them, cuobjdump gives their figures and their SASS."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

from patch_compile.plugin.toolchain import cuda_folders, plugin_sources

PLUGINS = plugin_sources()
# Kernels of each type for the kinds of PATCH, for all kinds of slabs, and for slabs of integers; and of both types for w8a8.
KERNELS = ("", "all_", "int8_", "int4_")
OF_BOTH = "w8a8"
SOURCES = {
    name: PLUGINS / "kernels" / f"launch_{name}.cu"
    for name in (*(f"{kernels}{scalar}" for kernels in KERNELS for scalar in ("half", "bfloat16")), OF_BOTH)
}
ARCHS = (80, 86, 89, 90, 120)
FLAGS = ("-std=c++17", "-O3", "-DNDEBUG", "-cubin")

_USAGE = re.compile(r"Function (\w+):\s+REG:(\d+) STACK:(\d+)")
_CONFIG = re.compile(
    r"patch_(?:tiles|stream)I.*?ELi(\d+)E"
)  # number of the configuration in the template's arguments
# Address, predicate, opcode, operands; the instruction's 128 bits are two words, the second on a line of its own.
_INSTRUCTION = re.compile(
    r"/\*([0-9a-f]{4,})\*/\s+(?:(@!?U?P\w+)\s+)?([A-Z][\w.]*)([^;]*);"
    r"(?:\s+/\* 0x[0-9a-f]{16} \*/\s+/\* 0x([0-9a-f]{16}) \*/)?"
)


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


class Function(NamedTuple):
    """One kernel of a binary. stack: bytes per thread."""

    code: list[Instruction]
    registers: int
    stack: int

    @property
    def spills(self) -> int:
        """Returns the bytes per thread that all STL and LDL of the code move: ptxas's spill stores and spill loads."""
        forms = (i.opcode.split(".") for i in self.code)
        local = (form for form in forms if form[0] in ("STL", "LDL"))
        return sum(int(next(filter(str.isdigit, form), "32")) // 8 for form in local)


def compile_all(scalar: str, arch: int, nvcc: Path, cuobjdump: Path, folder: Path) -> dict[int, Function]:
    """Compile all kernels of a scalar type, and return them by their index in the table of configurations."""
    kernels: dict[int, Function] = {}
    for name in (*(f"{kernel}{scalar}" for kernel in KERNELS), OF_BOTH):
        cubin = folder / f"{name}-{arch}.cubin"
        command = [nvcc, *FLAGS, f"-arch=sm_{arch}", "-I", PLUGINS, SOURCES[name], "-o", cubin]
        subprocess.run(command, capture_output=True, check=True)
        kernels |= kernels_in(cubin, cuobjdump)
    return kernels


def kernels_in(binary: Path, cuobjdump: Path) -> dict[int, Function]:
    """Every kernel of a configuration, by the index in the table of configurations and in its order.

    binary: a cubin, or an object with the code for one architecture.
    """
    named = ((_CONFIG.search(name), function) for name, function in functions_of(binary, cuobjdump).items())
    return dict(
        sorted(((int(match[1]), function) for match, function in named if match), key=lambda one: one[0])
    )


def functions_of(binary: Path, cuobjdump: Path) -> dict[str, Function]:
    """Every kernel by its mangled name. binary: a cubin, or an object with the code for one architecture."""
    said = _dump("-sass", binary, cuobjdump)
    usage = {name: (int(r), int(s)) for name, r, s in _USAGE.findall(_dump("-res-usage", binary, cuobjdump))}
    functions = (text.partition("\n") for text in said.split("Function : ")[1:])
    return {
        name.strip(): Function(
            [
                Instruction(int(a, 16), *rest, int(upper or "0", 16))
                for a, *rest, upper in _INSTRUCTION.findall(body)
            ],
            *usage[name.strip()],
        )
        for name, _, body in functions
    }


def ptx_of(binary: Path, cuobjdump: Path) -> str:
    """Returns the PTX in an object, as nvcc wrote it, without indents."""
    return _dump("-ptx", binary, cuobjdump)


def _dump(option: str, binary: Path, cuobjdump: Path) -> str:
    path = os.pathsep.join([str(cuobjdump.parent), os.environ.get("PATH", "")])  # cuobjdump calls nvdisasm
    command = [str(cuobjdump), option, str(binary)]
    environment = os.environ | {"PATH": path}
    return subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout


def find_cuobjdump() -> Path | None:
    """Find cuobjdump with nvdisasm in a CUDA toolkit, else in the nvidia-cuda-cuobjdump and -nvdisasm packages."""
    for folder in cuda_folders():
        found = shutil.which("cuobjdump", path=str(folder))
        if found and shutil.which(
            "nvdisasm", path=os.pathsep.join([str(folder), os.environ.get("PATH", "")])
        ):
            return Path(found)
    return None
