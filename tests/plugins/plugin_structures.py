"""Mirrors of the structures that `plugins/host/plugin_driver.cpp` and the dense path take, for ctypes."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from patch_compile.packing.index import csr_index
from tests.oracles.element_packing import KEPT, Packed
from tests.plugins.host_kernel import SLAB_NAMES, SlabCounts, Slabs, device_index, set_slabs
from tests.plugins.mosaic_cases import DTYPES, Case

__all__ = ["Activate", "Linear", "Tensors", "Unpack", "index_on_device", "slab_tensors"]


class Linear(ctypes.Structure):
    """Mirror of `Linear` in plugin_driver.cpp, which begins with the plugin's Attributes."""

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

    index: NDArray[np.int32] | None = None  # None: any with these numbers of slabs

    @classmethod
    def of(cls, case: Case) -> Linear:
        packed = case.packed
        linear = cls(
            packed.shape[1], packed.shape[0], packed.panel_rows, packed.gated, case.residual is not None,
            case.activation, weight_type_of(packed), case.bias is not None, DTYPES.index(case.dtype),
            SlabCounts.by_kind(packed.counts), sum(1 << kind for kind in packed.kinds), len(case.x),
        )  # fmt: skip
        linear.index = packed.index
        return linear

    def some_index(self) -> NDArray[np.int32]:
        """Return an index of as many slabs, kind by kind."""
        panels = (1 + self.gated) * -(-self.out_features // self.panel_rows)
        kinds = [kind for kind in range(len(KEPT)) if self.kinds >> kind & 1]
        streams = np.repeat(np.arange(len(kinds)), [self.slabs.of[kind] for kind in kinds])
        return csr_index(streams.reshape(panels, -1), len(kinds))


class Tensors(ctypes.Structure):
    """Mirror of `Tensors` in plugin_driver.cpp."""

    _fields_ = [
        ("x", ctypes.c_void_p),
        *((name, ctypes.c_void_p * len(KEPT)) for name in ("values", "extra")),
        *((name, ctypes.c_void_p) for name in ("scales", "index", "bias", "residual", "y", "workspace")),
    ]

    @classmethod
    def at(cls, addresses: Mapping[str, int]) -> Tensors:
        """Tensors at addresses; those of slabs have the names of SLAB_NAMES."""
        slabs = {name for names in SLAB_NAMES for name in names}
        tensors = cls(**{name: address for name, address in addresses.items() if name not in slabs})
        for kind, (values, extra) in enumerate(SLAB_NAMES):
            tensors.values[kind], tensors.extra[kind] = addresses.get(values), addresses.get(extra)
        return tensors


def slab_tensors(packed: Packed) -> dict[str, NDArray[Any]]:
    """Tensors of the slabs, by the names of SLAB_NAMES, and scales."""
    scales = {} if packed.scales is None else {"scales": packed.scales}
    return scales | {
        name: tensor
        for kind, own in packed.tensors.items()
        for name, tensor in zip(SLAB_NAMES[kind], own, strict=True)
        if tensor is not None
    }


class Unpack(ctypes.Structure):
    """Mirror of `UnpackArguments` in kernels/dense_path.h."""

    _fields_ = [
        ("slabs", Slabs * len(KEPT)),
        *((name, ctypes.c_void_p) for name in ("scales", "index", "weight")),
        *(
            (name, ctypes.c_int32)
            for name in (
                "kinds",
                "panel_rows",
                "sides",
                "all_panels",
                "first_panel",
                "panels",
                "columns",
                "weights",
                "scalar",
            )
        ),
    ]

    @classmethod
    def of(
        cls, packed: Packed, addresses: Mapping[str, int], first_panel: int, panels: int, scalar: int = 0
    ) -> Unpack:
        """Arguments that unpack some panels of Y. addresses: of the slabs' tensors, `index` and `weight`."""
        sides, rows = 1 + packed.gated, packed.panel_rows
        made = cls(
            index=addresses["index"], weight=addresses["weight"], kinds=device_kinds(packed), panel_rows=rows,
            sides=sides, all_panels=-(-packed.shape[0] // rows), first_panel=first_panel, panels=panels,
            columns=-(-packed.shape[1] // 64), weights=packed.weights, scalar=scalar, scales=addresses.get("scales"),
        )  # fmt: skip
        set_slabs(made.slabs, rows, packed.counts, packed.weights)
        for own, (values, extra) in zip(made.slabs, SLAB_NAMES, strict=True):
            own.values, own.extra = addresses.get(values), addresses.get(extra)
        return made


def device_kinds(packed: Packed) -> int:
    """Number of kinds in the index that a device gets."""
    return len(KEPT) if packed.weights or any(packed.counts[2:]) else 2


def weight_type_of(packed: Packed) -> int:
    """Number of the type's name in kWeightTypeNames; 0 for 16 bits."""
    return 2 + packed.weights if packed.weights else 0


def index_on_device(packed: Packed) -> NDArray[np.int32]:
    """The index that a device gets."""
    return device_index(packed.index, packed.kinds, sum(packed.counts), device_kinds(packed))


class Activate(ctypes.Structure):
    """Mirror of `ActivateArguments` in kernels/dense_path.h."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("z", "bias", "residual", "y")),
        *(
            (name, ctypes.c_int32)
            for name in ("tokens", "columns", "stride", "out_features", "gated", "activation")
        ),
    ]
