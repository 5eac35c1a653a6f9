"""Mirrors of the structures that `plugins/host/plugin_driver.cpp` and the dense path take, for ctypes."""

from __future__ import annotations

import ctypes
import importlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from patch_compile.packing.index import csr_index
from tests.oracles.element_packing import KEPT, Packed
from tests.plugins.host_kernel import SLAB_NAMES, Slabs, device_index, set_slabs
from tests.plugins.mosaic_cases import DTYPES, Case

__all__ = ["Activate", "Linear", "Tensors", "Unpack", "index_on_device", "slab_tensors"]

# As in host_kernel.py, the structs come from the benchmark.
_driver = importlib.import_module("plugin_driver")
Tensors = _driver.Tensors


class Linear(_driver.Linear):
    """A linear of the driver, of a case or of numbers of slabs."""

    @classmethod
    def of(cls, case: Case) -> Linear:
        about = {"bias": case.bias is not None, "residual": case.residual is not None}
        scalar = DTYPES.index(case.dtype)
        return cls.of_packed(case.packed, scalar, len(case.x), activation=case.activation, **about)

    def some_index(self) -> NDArray[np.int32]:
        """Return an index of as many slabs, kind by kind."""
        panels = (1 + self.gated) * -(-self.out_features // self.panel_rows)
        kinds = [kind for kind in range(len(KEPT)) if self.kinds >> kind & 1]
        streams = np.repeat(np.arange(len(kinds)), [self.slabs.of[kind] for kind in kinds])
        return csr_index(streams.reshape(panels, -1), len(kinds))


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
