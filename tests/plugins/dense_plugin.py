"""The TensorRT plugin on a CPU: `plugins/host/plugin_driver.cpp` with a cuBLASLt of its own, called by ctypes."""

from __future__ import annotations

import ctypes
import importlib
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from patch_compile.packing.index import csr_index
from patch_compile.plugin.toolchain import find_nvcc
from tests.oracles.element_packing import KEPT, Packed
from tests.oracles.integer_packing import W8A8
from tests.plugins.compiled import compiled, tensorrt_headers
from tests.plugins.host_kernel import PLUGINS, SLAB_NAMES, Device, Slabs, device_index, set_slabs
from tests.plugins.host_kernel import problem_of as problem_for
from tests.plugins.mosaic_cases import DTYPES, Case

# As in host_kernel.py, the structs come from the benchmark.
_build, _driver = (importlib.import_module(name) for name in ("build_library", "plugin_driver"))
Tensors = _driver.Tensors
A100 = Device(108, 163 << 10, 40 << 20, 11517, 80, 0, 768)
H100 = Device(132, 227 << 10, 50 << 20, 11928, 90, 0, 1556)
# With one SM for the kernels and no limit for the library, small products take the dense path too.
EAGER = Device(1, 227 << 10, 50 << 20, 1 << 20, 90, 0, 1 << 30)
DENSE_PATH = _driver.DENSE_PATH_TACTIC
GUARD = 1 << 17  # bytes of guard before and after a tensor

_HERE = Path(__file__).resolve().parent
# -Bsymbolic: PyTorch's CUDA must not take the place of the emulated one.
_HOST_FLAGS = "-Xcompiler=-fPIC,-fno-gnu-unique,-march=native,-Wall,-Wextra,-Werror"
_FLAGS = ("-std=c++17", "-O1", "-shared", "-Xlinker=-Bsymbolic", _HOST_FLAGS)


class Linear(_driver.Linear):
    """A linear of the driver, of a case or of numbers of slabs."""

    @classmethod
    def of(cls, case: Case) -> Linear:
        about = {"bias": case.bias is not None, "residual": case.residual is not None}
        scalar = DTYPES.index(case.dtype)
        return cls.of_packed(case.packed, scalar, len(case.x), activation=case.activation, **about)

    def some_index(self) -> NDArray[np.int32]:
        """Return an index of as many slabs, kind by kind."""
        panels = -(-(1 + self.gated) * self.out_features // self.panel_rows)
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
        *((name, ctypes.c_int32) for name in ("kinds", "panel_rows", "all_panels", "first_panel")),
        *((name, ctypes.c_int32) for name in ("panels", "columns", "weights", "scalar")),
    ]

    @classmethod
    def of(
        cls, packed: Packed, addresses: Mapping[str, int], first_panel: int, panels: int, scalar: int = 0
    ) -> Unpack:
        """Arguments that unpack some panels. addresses: of the slabs' tensors, `index` and `weight`."""
        rows = packed.panel_rows
        made = cls(
            index=addresses["index"], weight=addresses["weight"], kinds=device_kinds(packed), panel_rows=rows,
            all_panels=packed.panels, first_panel=first_panel, panels=panels,
            columns=-(-packed.shape[1] // 64), weights=packed.weights, scalar=scalar, scales=addresses.get("scales"),
        )  # fmt: skip
        set_slabs(made.slabs, rows, packed.counts, packed.weights)
        for own, (values, extra) in zip(made.slabs, SLAB_NAMES, strict=True):
            own.values, own.extra = addresses.get(values), addresses.get(extra)
        return made


def device_kinds(packed: Packed) -> int:
    """Number of kinds in the index that a device gets."""
    if packed.weights == W8A8:
        return 3
    return len(KEPT) if packed.weights or any(packed.counts[2:]) else 2


def index_on_device(packed: Packed) -> NDArray[np.int32]:
    """The index that a device gets."""
    return device_index(packed.index, packed.kinds, sum(packed.counts), device_kinds(packed))


class Activate(ctypes.Structure):
    """Mirror of `ActivateArguments` in kernels/dense_path.h."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("z", "bias", "residual", "y", "scales", "token_scales")),
        *(
            (n, ctypes.c_int32)
            for n in ("tokens", "columns", "stride", "out_features", "gated", "activation")
        ),
    ]


@dataclass
class Guarded:
    """Memory that begins `offset` behind a multiple of 256, with a known pattern around it."""

    array: NDArray[Any]
    around: NDArray[np.uint8]

    @classmethod
    def holding(cls, value: NDArray[Any], offset: int = 0) -> Guarded:
        around = np.full(value.nbytes + 2 * GUARD + 256, 0xA5, np.uint8)
        start = GUARD + -(around.ctypes.data + GUARD) % 256 + offset
        array = around[start : start + value.nbytes].view(value.dtype).reshape(value.shape)
        array[...] = value
        return cls(array, around)

    def intact(self) -> bool:
        """True when nothing was written outside the array."""
        start = self.array.ctypes.data - self.around.ctypes.data
        return bool(
            (self.around[:start] == 0xA5).all() and (self.around[start + self.array.nbytes :] == 0xA5).all()
        )


class DensePlugin(_driver.PluginDriver):
    """One loaded copy of the driver. Each copy searches for cuBLASLt once."""

    def __init__(self, driver: Path, folder: Path) -> None:
        own = Path(tempfile.mkdtemp(dir=folder)) / driver.name
        shutil.copy(driver, own)
        super().__init__(own)
        for name in ("messages", "fault"):
            getattr(self.lib, f"patch_plugin_{name}").restype = ctypes.c_char_p

    def device(self, device: Any) -> None:
        self.lib.patch_plugin_device(ctypes.byref(device))

    def messages(self) -> list[str]:
        """Log lines since the last call: the severity's number, then the text."""
        return self.lib.patch_plugin_messages().decode().splitlines()

    def launched(self) -> list[int]:
        """Numbers of launches since the last call: other kernels, unpacking, activation."""
        counts = (ctypes.c_int * 3)()
        self.lib.patch_plugin_launched(counts)
        return list(counts)

    def new(self, linear: Linear, index: NDArray[np.int32] | None = None) -> ctypes.c_void_p:
        """Create a plugin; null for an index that lies. index: None takes the linear's, or any that has its slabs."""
        if index is None:
            index = linear.some_index() if linear.index is None else linear.index
        return super().new(linear, index)

    def configured(self, linear: Linear, timed: int | None = None) -> ctypes.c_void_p:
        """Create a plugin and configure it, as the builder does before it asks for tactics."""
        plugin = self.new(linear)
        assert self.configure(plugin, linear, timed) == 0
        return plugin

    def enqueue(
        self, plugin: ctypes.c_void_p, case: Case, workspace_bytes: int, stream: int = 0, offset: int = 0
    ) -> tuple[int, NDArray[np.uint16]]:
        """Return the code and Y in bits; fails when anything but Y and the workspace was written."""
        packed = case.packed
        given = slab_tensors(packed)
        given |= {"x": case.x, "y": np.full((len(case.x), packed.shape[0]), 0x7E01, np.uint16)}
        given |= {"bias": case.bias, "residual": case.residual}
        given["workspace"] = np.full(workspace_bytes, 0xFF, np.uint8)
        held = {
            name: Guarded.holding(value, offset * (name in ("x", "y")))
            for name, value in given.items()
            if value is not None
        }
        tensors = Tensors.at({name: memory.array.ctypes.data for name, memory in held.items()})
        code = self.launch(plugin, Linear.of(case), tensors, stream)
        assert all(memory.intact() for memory in held.values()), "written beside a tensor"
        for name, memory in held.items():
            assert name in ("y", "workspace") or (memory.array == given[name]).all(), f"{name} was changed"
        return code, held["y"].array.copy()

    def fault(self) -> str:
        """The first fault the emulation found; empty for none."""
        return str(self.lib.patch_plugin_fault().decode())

    def pieces(self, problem: Any, activation: int = 0) -> tuple[int, int, int, int]:
        """Panels per piece, pieces, bytes of one piece, and a bound of its bytes for any smaller number of tokens."""
        out = (ctypes.c_int64 * 4)()
        self.lib.patch_plugin_pieces(ctypes.byref(problem), 0, 0, activation, out)
        return out[0], out[1], out[2], out[3]

    def dense_path_bytes(self, problem: Any, epilogue: tuple[bool, bool, int]) -> int:
        return int(self.lib.patch_plugin_dense_path_bytes(ctypes.byref(problem), *epilogue))

    def dense_path(self, problem: Any, scalar: int, arguments: Any, workspace: int) -> None:
        """Prepare and run the dense path once; raises RuntimeError with the reason when that fails."""
        run = self.lib.patch_plugin_dense_path
        run.restype = ctypes.c_char_p
        why = run(ctypes.byref(problem), scalar, ctypes.byref(arguments), ctypes.c_void_p(workspace))
        if why is not None:
            raise RuntimeError(why.decode())

    def takes_dense_path(self, problem: Any, device: Any, activation: int = 0) -> bool:
        return bool(
            self.lib.patch_plugin_takes_dense_path(ctypes.byref(problem), activation, ctypes.byref(device))
        )

    def activate(
        self, tensors: Mapping[str, NDArray[Any]], sizes: Activate, scalar: int
    ) -> NDArray[np.uint16]:
        """Launch the activation on z, with the bias and residual given, and return Y in bits; raises RuntimeError."""
        held = {name: Guarded.holding(tensor) for name, tensor in tensors.items()}
        addresses = {name: memory.array.ctypes.data for name, memory in held.items()}
        for name, address in addresses.items():
            setattr(sizes, name, address)
        code = self.lib.patch_plugin_activate(ctypes.byref(sizes), scalar)
        if code or not held["y"].intact():
            raise RuntimeError(self.fault() or "written beside Y")
        return held["y"].array.copy()

    def unpack(
        self, packed: Packed, first_panel: int = 0, panels: int | None = None, scalar: int = 0
    ) -> NDArray[Any]:
        """Launch the unpacking and return W [panels * panel_rows, slabs * 64]; raises RuntimeError.

        W is int8 with w8a8, and bits of 16-bit values otherwise.
        """
        slabs = -(-packed.shape[1] // 64)
        panels = packed.panels - first_panel if panels is None else panels
        filled = np.int8(0x55) if packed.weights == W8A8 else np.uint16(0x7E01)
        weight = np.full((panels * packed.panel_rows, slabs * 64), filled)
        held = {name: Guarded.holding(tensor) for name, tensor in slab_tensors(packed).items()}
        held["index"] = Guarded.holding(index_on_device(packed))
        held["weight"] = Guarded.holding(weight)
        addresses = {name: memory.array.ctypes.data for name, memory in held.items()}
        arguments = Unpack.of(packed, addresses, first_panel, panels, scalar)
        code = self.lib.patch_plugin_unpack(ctypes.byref(arguments))
        if code or not held["weight"].intact():
            raise RuntimeError(self.fault() or "written beside W")
        return held["weight"].array.copy()


def problem_of(case: Case) -> Any:
    """A case as the schedule sees it."""
    packed = case.packed
    return problem_for(
        len(case.x), packed.shape, packed.panel_rows, packed.counts, packed.gated, packed.weights
    )


def driver_sources(plugins: Path) -> list[Path]:
    """Sources of the driver with the emulations of CUDA and of the launches."""
    emulations = ("host/cuda_on_host.cpp", "host/launches_on_host.cpp")
    own = [plugins / name for name in (*_build.SOURCES, *emulations)]
    return [*own, *sorted((plugins / "dense_path").glob("*.cpp"))]


def compile_driver(cache: Path, plugins: Path = PLUGINS, defines: tuple[str, ...] = ()) -> Path:
    """Compile the driver, or take it from `cache`. Raises PatchCompileError without nvcc or TensorRT's headers."""
    nvcc = find_nvcc()
    sources = driver_sources(plugins)
    flags = [*_FLAGS, "-cudart=none", *(f"-D{d}" for d in defines)]
    flags += ["-DPATCH_HOST_EMULATION", "-DPATCH_BACKEND=tensorrt", "-I", str(plugins)]
    flags += ["-isystem", str(tensorrt_headers())]
    read = [
        f
        for folder in ("kernels", "host", "dense_path", "tensorrt")
        for f in plugins.glob(f"{folder}/*.[ch]*")
    ]
    return compiled(
        cache, [str(nvcc.path), *flags, *map(str, sources)], nvcc.version, read, "plugin-driver.so"
    )


def compile_stand_in(cache: Path) -> Path:
    """Compile a cuBLASLt that computes on the CPU."""
    nvcc, source = find_nvcc(), _HERE / "stand_in_cublaslt.cpp"
    return compiled(
        cache, [str(nvcc.path), *_FLAGS, "-cudart=none", str(source)], nvcc.version, [source], "cublaslt.so"
    )
