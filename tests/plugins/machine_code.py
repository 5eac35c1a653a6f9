"""Machine code of the kernels, compiled once and kept between test runs."""

from __future__ import annotations

import hashlib
import importlib
import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from patch_compile.errors import PatchCompileError
from patch_compile.plugin.toolchain import find_nvcc
from tests.plugins.host_kernel import BENCH, PLUGINS

sys.path.insert(0, str(BENCH))
cubin: Any = importlib.import_module("cubin")

__all__ = ["CUOBJDUMP", "NVCC", "MachineCode", "MachineCodeOf", "cubin", "machine_code"]

try:
    NVCC = find_nvcc()
except PatchCompileError:
    NVCC = None
CUOBJDUMP = cubin.find_cuobjdump()


class MachineCode(NamedTuple):
    """kernels: ptxas's figures, in the order of the table of configurations; code: instructions by configuration."""

    kernels: list[Any]
    code: dict[int, list[Any]]


MachineCodeOf = Callable[[str, int], MachineCode]  # (scalar type, architecture)


def machine_code(cache: Path, scalar: str, arch: int) -> MachineCode:
    """Compile one source for one architecture, or take it from `cache`, where the hash of all sources names it."""
    assert NVCC is not None and CUOBJDUMP is not None
    digest = hashlib.sha256(" ".join([*cubin.FLAGS, NVCC.version, scalar, str(arch)]).encode())
    for source in sorted(PLUGINS.glob("kernels/*.[ch]*")):
        digest.update(source.name.encode() + source.read_bytes())
    stem = cache / f"{scalar}-{arch}-{digest.hexdigest()[:20]}"
    binary, said = stem.with_suffix(".cubin"), stem.with_suffix(".json")
    if not said.exists():
        with tempfile.TemporaryDirectory(dir=cache) as folder:
            fresh = Path(folder) / binary.name
            kernels = cubin.compile_cubin(cubin.SOURCES[scalar], arch, NVCC.path, fresh)
            fresh.replace(binary)
        said.write_text(json.dumps(kernels))
    kernels = [cubin.Kernel(*numbers) for numbers in json.loads(said.read_text())]
    return MachineCode(kernels, cubin.disassemble(binary, CUOBJDUMP))
