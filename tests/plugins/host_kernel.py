"""The kernels on the CPU: compiles `plugins/host` with the system's C++ compiler and calls it by ctypes."""

from __future__ import annotations

import ctypes
import importlib
import os
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tests.oracles.element_packing import KEPT, Packed, kept_of
from tests.oracles.integer_packing import W8A8
from tests.plugins.compiled import compiled

PLUGINS = Path(__file__).resolve().parents[2] / "plugins"
BENCH = PLUGINS.parent / "benchmarks" / "kernels"
# The structs come from the benchmark, so these tests pass the kernels exactly what a GPU gets.
sys.path[:0] = [str(BENCH)]
_kernels = importlib.import_module("kernels")
Arguments, Device, Problem = _kernels.Arguments, _kernels.Device, _kernels.Problem
PartTable, SlabCounts, Slabs = _kernels.PartTable, _kernels.SlabCounts, _kernels.Slabs
device_index, problem_of = _kernels.device_index, _kernels.problem_of
set_slabs = _kernels.set_slabs
SLAB_NAMES = _kernels.SLAB_NAMES  # as driver.cpp calls them
_OF_SLABS = {name for names in SLAB_NAMES for name in names}
COMPILER = shutil.which(os.environ.get("CXX", "g++")) or shutil.which("clang++")
HOST_FLAGS: tuple[str, ...] = (
    "-std=c++17", "-O2", "-march=native", "-fPIC", "-shared", "-Wall", "-Wextra", "-Werror",
)  # fmt: skip
# Libraries of different sources are loaded side by side. By this, GCC gives each its own tables of kinds and configurations.
HOST_FLAGS += ("-fno-gnu-unique",) if COMPILER and Path(COMPILER).name.startswith("g") else ()

MOST_PARTS = 459  # of a stream, which its table has room for


# Bits of the configurations of a library: a compiler takes half a minute for the configurations of 16-bit weights.
_SIXTEEN_BITS, _INTEGERS = "PATCH_HOST_CONFIGS=0x0003ff", "PATCH_HOST_CONFIGS=0x003c00"
_BYTES = "PATCH_HOST_CONFIGS=0x1fc000"


class CopyMode(IntEnum):
    """Moment at which the bytes of a cp.async land."""

    LAZY = 0
    EAGER = 1
    MIXED = 2


class Call(ctypes.Structure):
    """Mirror of the struct of `patch_host_run`: arguments, and the sizes that bound every access."""

    _fields_ = [
        ("arguments", Arguments),
        *((n, ctypes.c_int64 * len(SLAB_NAMES)) for n in ["slab_values", "slab_words"]),
        *((n, ctypes.c_int64) for n in ["index_words", "partial_values", "counter_words", "first_block"]),
        *((n, ctypes.c_int32) for n in ["scalar", "config", "copy_mode"]),
        ("seed", ctypes.c_uint32),
        ("table", ctypes.c_void_p),
    ]


class StreamArguments(ctypes.Structure):
    """Mirror of `StreamArguments` in kernels/arguments.h."""

    _fields_ = [("linear", Arguments), ("table", PartTable)]


class Stats(ctypes.Structure):
    """Counters of one run."""

    _fields_ = [
        (n, ctypes.c_uint64)
        for n in [
            "mma",
            "mma_sp",
            "ldmatrix",
            "ldmatrix_waves",
            "copies",
            "barriers",
            "switches",
            "weight_bytes",
            "requested_bytes",
        ]
    ]


class Config(NamedTuple):
    """One row of the table of configurations."""

    panel_rows: int
    tokens: int
    feature_warps: int
    token_warps: int
    stages: int
    blocks_per_sm: int
    streams: bool
    shared_bytes: int
    kinds: int
    weights: int


@dataclass
class Launch:
    """One launch. config: index into the table; scalar: 0 is fp16, 1 is bf16; parts: at most so many parts of a stream;
    offsets: bytes, by tensor, from a multiple of 256 to its first byte.
    """

    config: int
    scalar: int = 0
    parts: int = 1
    mode: CopyMode = CopyMode.LAZY
    seed: int = 1
    offsets: Mapping[str, int] = field(default_factory=dict)
    stats: Stats = field(default_factory=Stats)


class HostKernel:
    """The loaded library."""

    def __init__(self, path: Path) -> None:
        self.lib = ctypes.CDLL(str(path))
        self.lib.patch_host_error.restype = ctypes.c_char_p
        self.lib.patch_host_config_name.restype = ctypes.c_char_p
        for name, kinds in {
            "partial_bytes": [ctypes.c_int, ctypes.c_int],
            "workspace_bound": [ctypes.c_void_p],
        }.items():
            function = getattr(self.lib, f"patch_host_{name}")
            function.restype, function.argtypes = ctypes.c_int64, kinds
        self.lib.patch_host_slabs_before.argtypes = [ctypes.c_int64, ctypes.c_void_p]
        self.lib.patch_host_narrow.argtypes = [ctypes.c_int, ctypes.c_float]
        self.lib.patch_host_narrow.restype = ctypes.c_uint32
        self.lib.patch_host_widen.argtypes = [ctypes.c_int, ctypes.c_uint16]
        self.lib.patch_host_widen.restype = ctypes.c_float

    def configs(self) -> dict[str, Config]:
        """The table of configurations by name, in order."""
        out = {}
        for i in range(self.lib.patch_host_config_count()):
            fields = (ctypes.c_int32 * 10)()
            self.lib.patch_host_config(i, fields)
            out[self.lib.patch_host_config_name(i).decode()] = Config(
                *fields[:6], bool(fields[6]), *fields[7:]
            )
        return out

    def schedule(self, problem: Any, device: Any, config: int = -1) -> tuple[int, int]:
        """Return the configuration and the parts that the plugin chooses for a `Problem` on a `Device`."""
        out = (ctypes.c_int32 * 2)()
        self.lib.patch_host_schedule(ctypes.byref(problem), ctypes.byref(device), config, out)
        return out[0], out[1]

    def table(self, arguments: Arguments, config: int) -> PartTable:
        """Return the table of a stream's parts. arguments: its sizes, its parts, and the index in this process's memory."""
        table = PartTable()
        self.lib.patch_host_make_parts(ctypes.byref(arguments), config, ctypes.byref(table))
        return table

    def part(self, table: PartTable, part: int) -> tuple[int, int, int]:
        """Return tile, slab and column where a part begins."""
        out = (ctypes.c_int32 * 3)()
        self.lib.patch_host_part(ctypes.byref(table), part, out)
        return out[0], out[1], out[2]

    def workspace_bound(self, problem: Problem) -> int:
        """Workspace bytes that the plugin asks TensorRT for."""
        return int(self.lib.patch_host_workspace_bound(ctypes.byref(problem)))

    def mma_sp(
        self,
        selector: int,
        compressed: NDArray[Any],
        b: NDArray[Any],
        words: NDArray[Any],
        c: NDArray[Any] | float = 0.0,
    ) -> NDArray[np.float32]:
        """Return c [16, 8] plus compressed [16, 16] times b [8, 32] of one fp16 mma.sp. words: metadata of each lane."""
        lanes_a, lanes_b = np.zeros((32, 8), np.float16), np.zeros((32, 8), np.float16)
        sums, out = np.zeros((32, 4), np.float32), np.zeros((16, 8), np.float32)
        out[...] = c
        places = [
            (lane // 4 + 8 * (j >> 1), 2 * (lane % 4) + (j & 1)) for lane in range(32) for j in range(4)
        ]
        for lane in range(32):
            g, t = divmod(lane, 4)
            for i in range(8):
                lanes_a[lane, i] = compressed[g + 8 * ((i >> 1) & 1), 2 * t + (i & 1) + 8 * (i >= 4)]
                lanes_b[lane, i] = b[g, 2 * t + (i & 1) + 8 * (i >> 1)]
        rows, columns = np.array(places).T
        sums.reshape(-1)[:] = out[rows, columns]
        tensors = (lanes_a, lanes_b, np.ascontiguousarray(words, np.uint32), sums)
        if self.lib.patch_host_mma_sp(selector, *(a.ctypes.data_as(ctypes.c_void_p) for a in tensors)):
            raise RuntimeError(self.lib.patch_host_error().decode())
        out[rows, columns] = sums.reshape(-1)
        return out

    def multiply_bytes(
        self,
        a: NDArray[np.int8],
        b: NDArray[np.int8],
        c: NDArray[np.int32],
        words: NDArray[Any] | None = None,
    ) -> NDArray[np.int32]:
        """Return c [16, 8] plus a times b [8, K] of one mma of int8; of mma.sp, with the metadata of each lane.

        a: [16, 32], or [16, 16] for mma.sp with K of 32.
        """
        lane, i = np.mgrid[:32, :4]
        rows, columns = lane // 4 + 8 * (i // 2), lane % 4 * 2 + i % 2
        lane, r, byte = np.mgrid[:32, :4, :4]
        kept, wide = np.zeros((16, 32), np.int8), np.zeros((8, 64), np.int8)
        kept[:, : a.shape[1]], wide[:, : b.shape[1]] = a, b
        lanes_a = np.ascontiguousarray(kept[lane // 4 + 8 * (r % 2), 4 * (lane % 4) + byte + r // 2 * 16])
        lanes_b = np.ascontiguousarray(wide[lane // 4, 4 * (lane % 4) + byte + 16 * r])
        meta = np.zeros(32, np.uint32) if words is None else np.ascontiguousarray(words, np.uint32)
        sums = np.ascontiguousarray(c[rows, columns])
        tensors = (array.ctypes.data_as(ctypes.c_void_p) for array in (lanes_a, lanes_b, meta, sums))
        if self.lib.patch_host_multiply_bytes(0 if words is None else b.shape[1], *tensors):
            raise RuntimeError(self.lib.patch_host_error().decode())
        out = np.zeros((16, 8), np.int32)
        out[rows, columns] = sums
        return out

    def parts(self, packed: Packed, tokens: int, launch: Launch) -> int:
        """Number of parts of the launch: one for a tile kernel; no part is narrower than a dense slab.

        A table holds `MOST_PARTS`.
        """
        config = list(self.configs().values())[launch.config]
        panels, tiles = packed.panels, -(-tokens // config.tokens)
        costs = slab_costs(packed.weights)
        total = tiles * (4 * panels + int(np.dot(costs, packed.counts[: len(costs)])))
        return max(1, min(launch.parts, total // costs[0], MOST_PARTS)) if config.streams else 1

    def index(self, packed: Packed, config: int) -> NDArray[np.int32]:
        """The index as a kernel takes it."""
        kinds = list(self.configs().values())[config].kinds
        return device_index(packed.index, packed.kinds, sum(packed.counts), kinds)

    def tensors(
        self,
        packed: Packed,
        x: NDArray[np.uint16],
        bias: NDArray[np.uint16] | None,
        launch: Launch,
        residual: NDArray[np.uint16] | None = None,
    ) -> dict[str, NDArray[np.generic]]:
        """Tensors behind the pointers of Arguments before a launch; Y is filled with a NaN."""
        tokens, parts = len(x), self.parts(packed, len(x), launch)
        config = list(self.configs().values())[launch.config]
        sums = config.tokens * config.panel_rows
        partials = 2 * parts * sums if parts > 1 else 0
        tensors: dict[str, NDArray[np.generic]] = {
            name: tensor
            for kind, own in packed.tensors.items()
            for name, tensor in zip(SLAB_NAMES[kind], own, strict=True)
            if tensor is not None
        }
        if packed.scales is not None:
            tensors["scales"] = packed.scales
        if packed.weights == W8A8:
            tensors["rounded"] = np.full((tokens, -(-packed.shape[1] // 64) * 64), 0x55, np.int8)
            tensors["token_scales"] = np.full(tokens, np.nan, np.float32)
        tensors["index"] = self.index(packed, launch.config)
        tensors["x"] = x
        tensors["y"] = np.full((tokens, packed.shape[0]), 0x7E01, np.uint16)
        tensors["partials"] = np.full(partials, np.nan, np.float32)
        tensors["counters"] = np.zeros(parts, np.int32)
        optional = {"bias": bias, "residual": residual}
        return tensors | {name: tensor for name, tensor in optional.items() if tensor is not None}

    def run(
        self,
        packed: Packed,
        x: NDArray[np.uint16],
        bias: NDArray[np.uint16] | None,
        launch: Launch,
        residual: NDArray[np.uint16] | None = None,
        activation: int = 0,
    ) -> NDArray[np.uint16]:
        """Return Y [tokens, out] in bits; raises RuntimeError with the first fault that the emulation found."""
        parts = self.parts(packed, len(x), launch)
        tensors = self.tensors(packed, x, bias, launch, residual)
        tensors = {name: _placed(tensor, launch.offsets.get(name, 0)) for name, tensor in tensors.items()}
        addresses = {name: tensor.ctypes.data for name, tensor in tensors.items()}
        call = Call(scalar=launch.scalar, config=launch.config, copy_mode=launch.mode, seed=launch.seed)
        for kind, (values, words) in packed.tensors.items():
            call.slab_values[kind], call.slab_words[kind] = (
                values.nbytes // 2,
                0 if words is None else words.size,
            )
        call.index_words = tensors["index"].size
        call.partial_values, call.counter_words = tensors["partials"].size, parts
        call.arguments = arguments_of(packed, len(x), parts, addresses, activation)
        if self.lib.patch_host_run(ctypes.byref(call), ctypes.byref(launch.stats)):
            raise RuntimeError(self.lib.patch_host_error().decode())
        return tensors["y"].copy()


def slab_costs(weights: int) -> list[int]:
    """Costs of a slab by the number of its kind (plugins/kernels/work.h), of a type of weights."""
    bytes_of_kept, scale = (8, 4, 4, 2)[weights], (0, 0, 0, 2)[weights]
    codes = (0, 8, 12) if weights == W8A8 else (0, *[8] * (len(KEPT) - 1))
    sizes = zip(kept_of(weights), codes, strict=True)
    return [-(-(bytes_of_kept * kept + scale + code) // 8) for kept, code in sizes]


def arguments_of(
    packed: Packed, tokens: int, parts: int, addresses: Mapping[str, int], activation: int = 0
) -> Arguments:
    """Arguments without the vector widths. addresses: by name, of the tensors that exist."""
    a = Arguments(**{name: address for name, address in addresses.items() if name not in _OF_SLABS})
    a.tokens, (a.out_features, a.in_features) = tokens, packed.shape
    a.panels, a.parts, a.gated = packed.panels, parts, packed.gated
    a.set_slabs(packed.panel_rows, packed.counts, packed.weights)
    for own, (values, words) in zip(a.slabs, SLAB_NAMES, strict=True):
        own.values, own.extra = addresses.get(values), addresses.get(words)
    a.activation = activation
    return a


def compile_host_kernel(
    cache: Path, plugins: Path = PLUGINS, defines: tuple[str, ...] = (_SIXTEEN_BITS,), opt: str = "-O2"
) -> HostKernel:
    """Compile `plugins/host/driver.cpp`, or take the library of the same sources from `cache`.

    Without `defines` it runs the configurations for weights of 16 bits.
    """
    return HostKernel(host_library(cache, plugins, defines, (opt,)))


def compile_integer_kernel(cache: Path) -> HostKernel:
    """Compile `plugins/host/driver.cpp` with the configurations for int8 and int4 weights."""
    return compile_host_kernel(cache, defines=(_INTEGERS,), opt="-O1")


def compile_byte_kernel(cache: Path) -> HostKernel:
    """Compile `plugins/host/driver.cpp` with the configurations for w8a8."""
    return compile_host_kernel(cache, defines=(_BYTES,), opt="-O1")


def host_library(
    cache: Path, plugins: Path = PLUGINS, defines: tuple[str, ...] = (), options: tuple[str, ...] = ()
) -> Path:
    """Return the path of the library. options: of the compiler, besides the usual."""
    assert COMPILER is not None
    flags = [*HOST_FLAGS, *options, *(f"-D{d}" for d in ("PATCH_HOST_EMULATION", *defines))]
    command = [COMPILER, *flags, "-I", str(plugins), str(plugins / "host/driver.cpp")]
    sources = [*plugins.glob("kernels/*.[ch]*"), *plugins.glob("host/*")]
    return compiled(cache, command, COMPILER, sources, "host-kernel.so")


def _placed(array: NDArray[np.generic], offset: int) -> NDArray[np.generic]:
    """Copy to memory that begins `offset` bytes after a multiple of 256, of which device memory is allocated."""
    buffer = np.empty(array.nbytes + 512, np.uint8)
    offset += -buffer.ctypes.data % 256
    out = buffer[offset : offset + array.nbytes].view(array.dtype).reshape(array.shape)
    out[...] = array
    return out
