"""The kernels as the plugin's PTX for compute_80, interpreted with the arguments of a real launch."""

from __future__ import annotations

import ctypes
import re
from collections.abc import Mapping
from functools import cache

import numpy as np
from numpy.typing import NDArray

from tests.oracles.element_packing import Packed
from tests.oracles.integer_packing import W8A8
from tests.plugins.host_kernel import (
    Arguments,
    Config,
    HostKernel,
    Launch,
    PartTable,
    StreamArguments,
    arguments_of,
)
from tests.plugins.machine_code import ptx_text
from tests.ptx.machine import Machine
from tests.ptx.memory import Memory
from tests.ptx.parser import PtxFault, entry_names, parse_entry

SCALARS = ("Half", "BFloat16")  # index: Launch.scalar
_SOURCES = (
    ("launch_half.cu", "launch_all_half.cu"),
    ("launch_bfloat16.cu", "launch_all_bfloat16.cu"),
)
INTEGER_SOURCES = (
    ("launch_int8_half.cu", "launch_int4_half.cu"),
    ("launch_int8_bfloat16.cu", "launch_int4_bfloat16.cu"),
)
"""Sources of the kernels for integers, by scalar type."""
BYTE_SOURCE = "launch_w8a8.cu"
"""Source of the kernels for w8a8, which take X of both types; it also has the kernel that rounds X."""
_WRITABLE = ("y", "partials", "counters")
_ANY = "AnyScalar"
# Itanium mangling of patch_quantise, patch_stream<Half, 0> and patch_tiles<Half, 2>
_ROUNDS = re.compile(r"_ZN5patch\d+patch_quantiseE.*")
_ENTRY = re.compile(r"_ZN5patch\d+patch_(?:stream|tiles)INS_\d+(?P<scalar>[A-Z]\w*?)ELi(?P<config>\d+)E.*")


def ptx_of_scalar(scalar: int) -> str:
    """PTX of the launch_*.cu of a scalar type, one behind the other."""
    return "\n".join(map(ptx_text, _SOURCES[scalar]))


class QuantiseArguments(ctypes.Structure):
    """Mirror of `QuantiseArguments` in kernels/quantise_kernel.cuh."""

    _fields_ = [
        *((n, ctypes.c_uint64) for n in ("x", "rounded", "scales")),
        *((n, ctypes.c_int32) for n in ("tokens", "in_features", "x_vector", "warps_per_row", "scalar")),
    ]


class PtxKernel:
    """All kernels of the modules. texts: PTX, indexed by Launch.scalar."""

    def __init__(self, host: HostKernel, texts: Mapping[int, str]) -> None:
        self.host, self.texts = host, texts
        self.machine, self.rounding = cache(self._machine), cache(self._rounding)

    def entries(self, scalar: int) -> dict[int, str]:
        """Kernel names of a scalar type, by configuration."""
        names: dict[int, str] = {}
        for name in entry_names(self.texts[scalar]):
            if _ROUNDS.fullmatch(name):
                continue
            match = _ENTRY.fullmatch(name)
            if (
                match is None
                or match["scalar"] not in (SCALARS[scalar], _ANY)
                or int(match["config"]) in names
            ):
                raise PtxFault(f"{name} is not the one kernel of a configuration")
            names[int(match["config"])] = name
        return names

    def _machine(self, scalar: int, config: int) -> Machine:
        shape = list(self.host.configs().values())[config]
        entry = parse_entry(self.texts[scalar], self.entries(scalar)[config])
        if entry.threads != 32 * shape.feature_warps * shape.token_warps:
            raise PtxFault(f"{entry.name} is bounded to {entry.threads} threads")
        return Machine(entry, _shared_bytes(shape))

    def run(
        self,
        packed: Packed,
        x: NDArray[np.uint16],
        bias: NDArray[np.uint16] | None,
        launch: Launch,
        residual: NDArray[np.uint16] | None = None,
        activation: int = 0,
    ) -> NDArray[np.uint16]:
        """Return Y [tokens, out] in bits. The launch's seed orders the blocks. Raises PtxFault."""
        tensors = self.host.tensors(packed, x, bias, launch, residual)
        if packed.weights == W8A8:
            tensors["rounded"], tensors["token_scales"] = self.round(tensors["x"], launch.scalar)
        memory = Memory.holding(tensors, _WRITABLE)
        addresses = {name: memory.address(name) for name in memory.places}
        config = list(self.host.configs().values())[launch.config]
        parts = self.host.parts(packed, len(x), launch)
        arguments = arguments_of(packed, len(x), parts, addresses, activation)
        arguments.scalar = launch.scalar
        choose_vectors(arguments)
        blocks = parts if config.streams else arguments.panels * -(-len(x) // config.tokens)
        held = bytes(arguments)
        if config.streams:
            held = bytes(StreamArguments(arguments, self._table(arguments, packed, launch.config)))
        self.machine(launch.scalar, launch.config).launch(blocks, held, memory, launch.seed)
        if memory.tensor("counters", np.int32).any():
            raise PtxFault("a counter is not 0 after the launch")
        return memory.tensor("y", np.uint16).reshape(len(x), -1).copy()

    def round(
        self, x: NDArray[np.uint16], scalar: int, seed: int = 0
    ) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
        """Integers of X [tokens, K rounded up to 64], and the scale of each token. Raises PtxFault."""
        tokens, columns = x.shape
        chunks = (
            -(-columns // 64) * 4
        )  # of 16 columns; as many warps share a row as have one each, at most all 8
        warps = next((n for n in (1, 2, 4) if 32 * n >= chunks), 8)
        rounded = np.full((tokens, 16 * chunks), 0x55, np.int8)
        tensors = {"x": x, "rounded": rounded, "scales": np.full(tokens, np.nan, np.float32)}
        memory = Memory.holding(tensors, ("rounded", "scales"))
        addresses = {name: memory.address(name) for name in tensors}
        sizes = (tokens, columns, 8 if columns % 8 == 0 else 4, warps, scalar)
        held = bytes(QuantiseArguments(*addresses.values(), *sizes))
        self.rounding(scalar).launch(-(-tokens * warps // 8), held, memory, seed)
        integers = memory.tensor("rounded", np.int8).reshape(rounded.shape).copy()
        return integers, memory.tensor("scales", np.float32).copy()

    def _rounding(self, scalar: int) -> Machine:
        (name,) = filter(_ROUNDS.fullmatch, entry_names(self.texts[scalar]))
        return Machine(parse_entry(self.texts[scalar], name), 8 * 4)

    def _table(self, arguments: Arguments, packed: Packed, config: int) -> PartTable:
        on_host = Arguments.from_buffer_copy(arguments)
        index = self.host.index(packed, config)
        on_host.index = index.ctypes.data
        return self.host.table(on_host, config)


def _shared_bytes(config: Config) -> int:
    """Geometry::kSharedBytes: the ring; for a tile kernel at least the output tile, which takes its place."""
    if config.streams:  # the slots of integers are smaller
        return config.shared_bytes
    columns = 64 if config.weights == W8A8 else 128  # bytes of a slab's 64 columns of a row
    ring = config.stages * (config.panel_rows + config.tokens) * columns
    return max(ring, config.tokens * (config.panel_rows + 8) * 2)


def choose_vectors(a: Arguments) -> None:
    """Vector widths that choose_vectors of arguments.h chooses when all tensors are aligned."""
    a.x_vector = 8 if a.in_features % 8 == 0 else 4
    a.y_vector = next(width for width in (8, 4, 2, 1) if a.out_features % width == 0)
