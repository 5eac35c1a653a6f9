"""The TensorRT plugin without TensorRT: its class behind a C interface, with the kernels, built by nvcc for a GPU."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from pathlib import Path
from typing import Self

import numpy as np
from cuda_calls import Cuda
from kernels import KIND_COUNT, SLAB_NAMES, SlabCounts
from numpy.typing import NDArray

from tests.oracles.element_packing import Packed

DENSE_PATH_TACTIC = 1000
"""The number of `kDensePathTactic`."""


class Linear(ctypes.Structure):
    """Mirror of `Linear` in plugins/host/plugin_driver.cpp, which begins with the plugin's Attributes."""

    _fields_ = [
        *(
            (name, ctypes.c_int32)
            for name in (
                "in_features", "out_features", "panel_rows", "gated", "residual", "activation", "weights",
                "bias", "scalar",
            )
        ),
        ("slabs", SlabCounts),
        ("kinds", ctypes.c_int32),
        ("tokens", ctypes.c_int64),
    ]  # fmt: skip

    index: NDArray[np.int32] | None = None  # as an engine holds it

    @classmethod
    def of_packed(
        cls, packed: Packed, scalar: int, tokens: int, *, bias: bool, residual: bool, activation: int
    ) -> Self:
        """Return the linear of a packed weight. scalar, activation: numbers in kernels/arguments.h."""
        weights = (
            2 + packed.weights if packed.weights else 0
        )  # place in kWeightTypeNames; 16 bits have the type of X
        kinds = sum(1 << kind for kind in packed.kinds)
        linear = cls(
            packed.shape[1], packed.shape[0], packed.panel_rows, packed.gated, residual, activation, weights,
            bias, scalar, SlabCounts.by_kind(packed.counts), kinds, tokens,
        )  # fmt: skip
        linear.index = packed.index
        return linear


class Tensors(ctypes.Structure):
    """Mirror of `Tensors` in plugins/host/plugin_driver.cpp: addresses."""

    _fields_ = [
        ("x", ctypes.c_void_p),
        *((name, ctypes.c_void_p * KIND_COUNT) for name in ("values", "extra")),
        *((name, ctypes.c_void_p) for name in ("scales", "bias", "residual", "y", "workspace")),
    ]

    @classmethod
    def at(cls, addresses: Mapping[str, int]) -> Self:
        """Return tensors at addresses; the tensors of slabs have the names of SLAB_NAMES."""
        slabs = {name for names in SLAB_NAMES for name in names}
        tensors = cls(**{name: address for name, address in addresses.items() if name not in slabs})
        for kind, (values, extra) in enumerate(SLAB_NAMES):
            tensors.values[kind], tensors.extra[kind] = addresses.get(values), addresses.get(extra)
        return tensors


class PluginDriver:
    """The loaded library. Its plugins are addresses; a code other than 0 means that a call failed."""

    def __init__(self, library: Path) -> None:
        self.lib = lib = ctypes.CDLL(str(library))
        for name in ("new", "clone", "attach", "cuda"):
            getattr(lib, f"patch_plugin_{name}").restype = ctypes.c_void_p
        lib.patch_plugin_timing_id.restype = ctypes.c_char_p
        lib.patch_plugin_workspace.restype = ctypes.c_size_t
        lib.patch_plugin_dense_path_bytes.restype = ctypes.c_int64

    def new(self, linear: Linear, index: NDArray[np.int32] | None = None) -> ctypes.c_void_p:
        """Create a plugin; null for an index that lies. index: None takes the linear's."""
        index = linear.index if index is None else index
        assert index is not None
        size, address = ctypes.c_int64(len(index)), ctypes.c_void_p(index.ctypes.data)
        return ctypes.c_void_p(self.lib.patch_plugin_new(ctypes.byref(linear), address, size))

    def attach(self, plugin: ctypes.c_void_p) -> ctypes.c_void_p:
        """Return the plugin of a new context; null if memory is short."""
        return ctypes.c_void_p(self.lib.patch_plugin_attach(plugin))

    def delete(self, *plugins: ctypes.c_void_p) -> None:
        for plugin in plugins:
            self.lib.patch_plugin_delete(plugin)

    def configure(self, plugin: ctypes.c_void_p, linear: Linear, timed: int | None = None) -> int:
        """Configure a plugin for 1 to `linear.tokens` tokens. timed: the number that the builder times; None: the most."""
        tokens = ctypes.c_int64(linear.tokens if timed is None else timed)
        return int(self.lib.patch_plugin_configure(plugin, ctypes.byref(linear), tokens))

    def tactics(self, plugin: ctypes.c_void_p) -> list[int]:
        found = (ctypes.c_int32 * 64)()
        return list(found[: self.lib.patch_plugin_tactics(plugin, found)])

    def set_tactic(self, plugin: ctypes.c_void_p, tactic: int) -> int:
        return int(self.lib.patch_plugin_set_tactic(plugin, tactic))

    def workspace(self, plugin: ctypes.c_void_p, linear: Linear) -> int:
        """Return the bytes that the plugin asks for, for 1 to `linear.tokens` tokens."""
        return int(self.lib.patch_plugin_workspace(plugin, ctypes.byref(linear)))

    def shapes(self, plugin: ctypes.c_void_p, linear: Linear, batch: int = 1) -> int:
        """Tell the plugin of a context the shapes of the next calls."""
        return int(self.lib.patch_plugin_shapes(plugin, ctypes.byref(linear), ctypes.c_int64(batch)))

    def launch(self, plugin: ctypes.c_void_p, linear: Linear, tensors: Tensors, stream: int) -> int:
        """Enqueue the linear on a CUDA stream."""
        references = (ctypes.byref(linear), ctypes.byref(tensors))
        return int(self.lib.patch_plugin_enqueue(plugin, *references, ctypes.c_void_p(stream)))

    def cuda(self) -> Cuda:
        """Return the CUDA that the library was linked with."""
        emulated = hasattr(self.lib, "cuCtxCreate_v2")
        driver = self.lib if emulated else ctypes.CDLL("libcuda.so.1")
        return Cuda(lambda name: int(self.lib.patch_plugin_cuda(name.encode())), driver)
