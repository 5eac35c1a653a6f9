"""Machine code and PTX of the kernels: nvcc compiles them once, for the plugin and for the tests."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from patch_compile.errors import PatchCompileError
from patch_compile.plugin.compiling import kernel_objects, plugin_cache
from patch_compile.plugin.toolchain import find_cxx, find_nvcc
from tests.plugins.host_kernel import BENCH

sys.path.insert(0, str(BENCH))
cubin: Any = importlib.import_module("cubin")

try:
    NVCC = find_nvcc()
    find_cxx()
except PatchCompileError:
    NVCC = None
CUOBJDUMP = cubin.find_cuobjdump()
NO_CODE = NVCC is None or CUOBJDUMP is None
"""True where the kernels can't be compiled, or their code can't be read."""
WHY_NO_CODE = "no nvcc, no C++ compiler, or no cuobjdump with an nvdisasm"


Kernels = dict[int, Any]  # the `Function` of each configuration, in the order of their table
KernelsOf = Callable[[str, int], Kernels]  # (scalar type, architecture)


def kernel_object(source: str, arch: int) -> Path:
    """Returns the object of a source in `kernels`. For the architecture of `make test` it is the plugin's own."""
    (made,) = kernel_objects(plugin_cache(), (arch,), find_nvcc(), find_cxx(), names=(source,))
    return made


def machine_code(scalar: str, arch: int) -> Kernels:
    """Returns the machine code of one source for one architecture."""
    kernels: Kernels = cubin.kernels_in(kernel_object(cubin.SOURCES[scalar].name, arch), CUOBJDUMP)
    return kernels


def ptx_text(source: str) -> str:
    """Returns the PTX for compute_80 of a source in `kernels`."""
    return cubin.ptx_of(kernel_object(source, 80), CUOBJDUMP)
