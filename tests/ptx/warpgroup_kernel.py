"""The kernel for Hopper as nvcc's PTX for compute_90a, interpreted with the arguments of a real launch."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from patch_compile.planning.roofline.schedule import HOPPER_CONFIGS as WARPGROUP_CONFIGS
from tests.plugins.host_kernel import PLUGINS, arguments_of
from tests.plugins.mosaic_cases import DTYPES, Case
from tests.ptx.kernel import SCALARS, choose_vectors, compile_file
from tests.ptx.machine import Machine
from tests.ptx.memory import Memory
from tests.ptx.parser import PtxFault, entry_names, parse_entry
from tests.ptx.warpgroups import Late

# Itanium mangling of patch_warpgroups<Half, 1>
_ENTRY = re.compile(r"_ZN5patch\d+patch_warpgroupsINS_\d+(?P<scalar>[A-Z]\w*?)ELi(?P<config>\d+)E.*")


def compile_warpgroups(folder: Path, plugins: Path = PLUGINS) -> str:
    """PTX of all kernels of launch_warpgroup.cu."""
    source = plugins / "kernels" / "launch_warpgroup.cu"
    return compile_file(folder, source, plugins, ("-arch=compute_90a", "-DPATCH_SM90A"))


class WarpgroupKernel:
    """The kernels of a module."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.machine = cache(self._machine)

    def entries(self) -> dict[tuple[int, int], str]:
        """Kernel names by scalar type and configuration."""
        found = {}
        for name in entry_names(self.text):
            match = _ENTRY.fullmatch(name)
            if match is None:
                raise PtxFault(f"{name} is not the kernel of a configuration")
            found[SCALARS.index(match["scalar"]), int(match["config"])] = name
        return found

    def _machine(self, scalar: int, config: int) -> Machine:
        return Machine(
            parse_entry(self.text, self.entries()[scalar, config]), WARPGROUP_CONFIGS[config].shared_bytes
        )

    def run(self, case: Case, config: int, late: Late = Late.ALL, seed: int = 0) -> NDArray[np.uint16]:
        """Return Y [tokens, out] in bits. Raises PtxFault."""
        packed, tokens = case.packed, len(case.x)
        tensors = {name: getattr(packed, name) for name in ("dense", "sparse", "meta", "index")}
        tensors |= {"x": case.x, "y": np.full((tokens, packed.shape[0]), 0x7E01, np.uint16)}
        optional = {"bias": case.bias, "residual": case.residual}
        tensors |= {name: tensor for name, tensor in optional.items() if tensor is not None}
        memory = Memory.holding(tensors, ("y",))
        addresses = {name: memory.address(name) for name in memory.places}
        arguments = arguments_of(packed, tokens, 1, addresses, case.activation)
        choose_vectors(arguments)
        about = WARPGROUP_CONFIGS[config]
        blocks = arguments.panels * -(-tokens // (about.tokens * about.cluster)) * about.cluster
        machine = self.machine(DTYPES.index(case.dtype), config)
        machine.launch(blocks, bytes(arguments), memory, seed, late)
        return memory.tensor("y", np.uint16).reshape(tokens, -1).copy()
