"""The library of the kernels (build_library.py), called by ctypes."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from masklearn.masks.kinds.base import TileKind
from masklearn.quant.table import FLOAT16, QUANTISED, W8A8, WeightType
from patch_compile.planning.roofline.schedule import TABLE_WORDS, kinds_of

KIND_COUNT = len(kinds_of(FLOAT16))
"""Number of kinds that the kernels' arrays have room for."""

SLAB_NAMES = (
    ("dense", ""),
    ("sparse", "meta"),
    *((f"values of kind {n}", f"codes of kind {n}") for n in range(2, KIND_COUNT)),
)
"""Names of the two tensors of each kind of slabs, by its number in kernels/kinds.h."""

WEIGHTS = ("", *QUANTISED)
"""Types of weights by their numbers in kernels/weights.h: 16 bits, of X's type, then the names of integers."""

BYTES = WEIGHTS.index(W8A8.name)
"""Number of the type whose X is rounded to integers too."""


class Slabs(ctypes.Structure):
    """Mirror of `Slabs` in kernels/arguments.h."""

    _fields_ = [
        *((n, ctypes.c_void_p) for n in ("values", "extra")),
        *((n, ctypes.c_int32) for n in ("count", "before", "value_bytes", "extra_bytes")),
    ]


class SlabCounts(ctypes.Structure):
    """Mirror of `SlabCounts` in kernels/kinds.h."""

    _fields_ = [("of", ctypes.c_int32 * KIND_COUNT)]

    @classmethod
    def by_kind(cls, counts: Sequence[int]) -> SlabCounts:
        """Returns the numbers of slabs; kinds beyond the end of `counts` have none."""
        made = cls()
        made.of[: len(counts)] = [int(count) for count in counts]
        return made


class Arguments(ctypes.Structure):
    """Mirror of `LinearArguments` in kernels/arguments.h."""

    _fields_ = [
        ("x", ctypes.c_void_p),
        ("slabs", Slabs * KIND_COUNT),
        *((n, ctypes.c_void_p) for n in (
              "scales", "index", "bias", "residual", "y", "rounded", "token_scales", "partials", "counters")),
        *((n, ctypes.c_int32) for n in
          ("tokens", "out_features", "in_features", "panels", "parts", "x_vector", "y_vector", "activation", "gated",
           "scalar")),
    ]  # fmt: skip

    def set_slabs(self, panel_rows: int, counts: Sequence[int], weights: int = 0) -> None:
        """Set the sizes in `slabs`. counts: numbers of slabs by kind; weights: number of their type."""
        set_slabs(self.slabs, panel_rows, counts, weights)


def set_slabs(slabs: ctypes.Array[Slabs], panel_rows: int, counts: Sequence[int], weights: int = 0) -> None:
    """Set the sizes of the slabs of each kind, as `set_slabs` of kernels/arguments.h does."""
    before = 0
    sizes = zip(value_bytes(panel_rows, weights), extra_bytes(panel_rows, weights), strict=True)
    for own, (values, extra), count in zip(slabs, sizes, [*counts, *[0] * KIND_COUNT], strict=False):
        own.count, own.before, own.value_bytes, own.extra_bytes = count, before, values, extra
        before += count


def kinds_with(weights: int) -> tuple[TileKind, ...]:
    """Returns the kinds of a type of weights, given by its number, in the order of their numbers."""
    return kinds_of(_type_of(weights))


def value_bytes(panel_rows: int, weights: int = 0) -> list[int]:
    """Returns the bytes of a slab in its first tensor, by kind, of a type of weights by its number."""
    kind = _type_of(weights)
    scales = 2 * panel_rows if kind.span else 0
    return [panel_rows * 8 * kind.bits * one.kept // one.group + scales for one in kinds_of(kind)]


def extra_bytes(panel_rows: int, weights: int = 0) -> list[int]:
    """Returns the bytes of a slab in its second tensor, by kind, of a type of weights by its number."""
    return [
        panel_rows * 8 * one.family.code_bits // one.group if one.family else 0 for one in kinds_with(weights)
    ]


def _type_of(weights: int) -> WeightType:
    return QUANTISED[WEIGHTS[weights]] if weights else FLOAT16


def device_index(
    index: NDArray[np.int32], there: Sequence[int], stored: int, kinds: int
) -> NDArray[np.int32]:
    """Returns an index as a kernel for the first `kinds` kinds of its type of weights takes it.

    index: with the kinds whose numbers are `there`; stored: slabs in all.
    """
    pointers = index[: len(index) - stored].reshape(len(there), -1)
    rows = [
        pointers[there.index(kind)] if kind in there else np.zeros_like(pointers[0]) for kind in range(kinds)
    ]
    return np.concatenate([*rows, index[len(index) - stored :]])


class PartTable(ctypes.Structure):
    """Mirror of `PartTable` in kernels/arguments.h."""

    _fields_ = [("pointers", ctypes.c_int32), ("words", ctypes.c_uint32 * TABLE_WORDS)]


class Problem(ctypes.Structure):
    """Mirror of `Problem` in kernels/schedule.h."""

    _fields_ = [
        ("tokens", ctypes.c_int64),
        *((n, ctypes.c_int32) for n in ("out_features", "in_features", "panel_rows")),
        ("slabs", SlabCounts),
        *((n, ctypes.c_int32) for n in ("gated", "weights")),
    ]


def problem_of(
    tokens: int,
    shape: tuple[int, int],
    panel_rows: int,
    counts: Sequence[int],
    gated: bool = False,
    weights: int = 0,
) -> Problem:
    """Returns a problem. counts: numbers of slabs by kind; weights: number of their type."""
    return Problem(tokens, *shape, panel_rows, SlabCounts.by_kind(counts), gated, weights)


class Device(ctypes.Structure):
    """Mirror of `Device` in kernels/schedule.h."""

    _fields_ = [
        ("sms", ctypes.c_int32), ("shared_bytes", ctypes.c_int32), ("l2_bytes", ctypes.c_int64),
        ("dram", ctypes.c_int32), ("sm", ctypes.c_int32), ("geforce", ctypes.c_int32), ("dense_fma", ctypes.c_int32),
    ]  # fmt: skip

    @property
    def has_dense_path(self) -> bool:
        """True if 16-bit weights of dense and 2:4 slabs may take the dense path: on Hopper (dense_path/choice.h)."""
        return bool(self.sm // 10 == 9)


class Config(NamedTuple):
    """A configuration: the packing that its weights must have, its shared memory, and the tokens of a block."""

    name: str
    panel_rows: int
    shared_bytes: int
    tokens: int
    kinds: int = 2  # number of kinds of slabs that it multiplies, the first ones of its weights' type
    weights: int = 0  # number of their type


class DensePath:
    """Unpacks W and multiplies it by cuBLASLt, for one problem and epilogue. Raises RuntimeError where that fails."""

    def __init__(
        self, lib: ctypes.CDLL, problem: Problem, epilogue: tuple[bool, bool, int], scalar: int
    ) -> None:
        self._lib, self.bytes = lib, int(lib.patch_bench_dense_path_bytes(ctypes.byref(problem), *epilogue))
        why = ctypes.c_char_p()
        self._made = ctypes.c_void_p(
            lib.patch_bench_dense_path(ctypes.byref(problem), *epilogue, scalar, ctypes.byref(why))
        )
        if not self._made:
            raise RuntimeError((why.value or b"").decode())

    def __del__(self) -> None:
        self._lib.patch_bench_dense_path_delete(self._made)

    def run(self, arguments: Arguments, workspace: int, stream: int) -> None:
        """Enqueue it on a CUDA stream; `workspace` is the address of `bytes` bytes, a multiple of 256."""
        addresses = ctypes.c_void_p(workspace), ctypes.c_void_p(stream)
        self._lib.patch_bench_dense_path_run(self._made, ctypes.byref(arguments), *addresses)


class Kernels:
    """The loaded library."""

    def __init__(self, library: Path) -> None:
        self._lib = lib = ctypes.CDLL(str(library))
        for name in ("launch", "device", "dense_path_run"):
            function = getattr(lib, f"patch_bench_{name}")
            function.restype, function.errcheck = ctypes.c_char_p, _raise
        lib.patch_bench_config_name.restype = ctypes.c_char_p
        for name in ("partial_bytes", "counter_bytes", "dense_path_bytes"):
            getattr(lib, f"patch_bench_{name}").restype = ctypes.c_int64
        lib.patch_bench_dense_path.restype = ctypes.c_void_p

    def configs(self) -> list[Config]:
        """All configurations, in the order of the table."""
        found, numbers = [], (ctypes.c_int32 * 5)()
        for i in range(self._lib.patch_bench_config_count()):
            self._lib.patch_bench_config(i, numbers)
            rows, shared, tokens, kinds, weights = numbers
            name = self._lib.patch_bench_config_name(i).decode()
            found.append(Config(name, rows, shared, tokens, kinds, weights))
        return found

    def device(self) -> Device:
        """The current device as the plugin sees it. Raises RuntimeError with CUDA's message."""
        device = Device()
        self._lib.patch_bench_device(ctypes.byref(device))
        return device

    def schedule(self, problem: Problem, device: Device, config: int = -1) -> tuple[int, int]:
        """Return the configuration and parts for a problem; the configuration is -1 when none fits."""
        chosen = (ctypes.c_int32 * 2)()
        self._lib.patch_bench_schedule(ctypes.byref(problem), ctypes.byref(device), config, chosen)
        return chosen[0], chosen[1]

    def max_parts(self, problem: Problem, device: Device, config: int) -> int:
        """Return the largest number of parts that a configuration may run a problem in."""
        return int(self._lib.patch_bench_max_parts(ctypes.byref(problem), ctypes.byref(device), config))

    def partial_bytes(self, config: int, parts: int) -> int:
        """Bytes of the workspace."""
        return int(self._lib.patch_bench_partial_bytes(config, parts))

    @property
    def counter_bytes(self) -> int:
        """Bytes of the counters, which must be 0 before the first launch."""
        return int(self._lib.patch_bench_counter_bytes())

    def dense_path(self, problem: Problem, epilogue: tuple[bool, bool, int], scalar: int) -> DensePath:
        """Prepare the dense path; epilogue: has a bias, has a residual, number of the activation."""
        return DensePath(self._lib, problem, epilogue, scalar)

    def table(self, arguments: Arguments, index: NDArray[np.int32], config: int, parts: int) -> PartTable:
        """Return the table of parts of a launch, as the plugin makes it when shapes change; empty for a tile kernel.

        index: of the weight, in the host's memory.
        """
        table = PartTable()
        address = ctypes.c_void_p(index.ctypes.data)
        self._lib.patch_bench_table(ctypes.byref(arguments), address, config, parts, ctypes.byref(table))
        return table

    def launch(
        self, arguments: Arguments, table: PartTable, scalar: int, config: int, parts: int, stream: int
    ) -> None:
        """Enqueue one launch on a CUDA stream. Raises RuntimeError with CUDA's message."""
        given = ctypes.byref(arguments), ctypes.byref(table), scalar, config, parts
        self._lib.patch_bench_launch(*given, ctypes.c_void_p(stream))


def _raise(error: bytes | None, *_: object) -> None:
    if error is not None:
        raise RuntimeError(error.decode())
