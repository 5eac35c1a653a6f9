"""One class for TensorRT and TensorRT-RTX, and the choice of the backend that works on this machine."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cache, cached_property
from typing import TYPE_CHECKING, Any, Protocol, cast

from patch_compile.engine.soname import answer_to_unversioned_name
from patch_compile.errors import PatchCompileError, UsageError
from patch_compile.hardware import cards
from patch_compile.hardware.cards import GpuArchitecture, local_architecture
from patch_compile.hardware.gpu import local_gpu

if TYPE_CHECKING:
    import numpy as np
    import tensorrt

    class PythonLogger(tensorrt.ILogger):
        """ILogger that also calls `heard(level, message)`, with a level of Python's `logging`, if `heard` is set."""

        heard: Callable[[int, str], None] | None


# Parts of messages that report intended behaviour: an empty packed tensor of a linear without dense or without sparse
# slabs, int64 token ids, and a build that the user cancelled.
_EXPECTED = ("Empty initializer", "Int64 binding", "BuildCanceled")
# TensorRT-RTX logs this for every CUDA error. Without a driver such errors are normal: it can build ahead of time there.
_NO_DRIVER = "catchCudaError"
_LOG = logging.getLogger("patch_compile.engine.tensorrt")


class Runner(StrEnum):
    """Way to run a model: its engine with TensorRT, or its ONNX file with ONNX Runtime."""

    ENGINE = "engine"
    ONNX = "onnx"


class TensorRtApi(Protocol):
    """The module `tensorrt` or `tensorrt_rtx`: constructors and enums that both have.

    The module is chosen at run time, so a type checker can't see its members. A test compares the names below with the
    installed module.
    """

    __version__: str
    Builder: type[tensorrt.Builder]
    BuilderFlag: type[tensorrt.BuilderFlag]
    Dims: type[tensorrt.Dims]
    HardwareCompatibilityLevel: type[tensorrt.HardwareCompatibilityLevel]
    ILogger: type[tensorrt.ILogger]
    IProgressMonitor: type[tensorrt.IProgressMonitor]
    IStreamWriter: type[tensorrt.IStreamWriter]
    LayerInformationFormat: type[tensorrt.LayerInformationFormat]
    NetworkDefinitionCreationFlag: type[tensorrt.NetworkDefinitionCreationFlag]
    OnnxParser: type[tensorrt.OnnxParser]
    ProfilingVerbosity: type[tensorrt.ProfilingVerbosity]
    Runtime: type[tensorrt.Runtime]

    def get_plugin_registry(self) -> tensorrt.IPluginRegistry:
        """Returns the plugin registry of the process."""


def sizes_of(dims: tensorrt.Dims) -> tuple[int, ...]:
    return tuple(dims[axis] for axis in range(len(dims)))


def numpy_of(dtype: tensorrt.DataType) -> np.dtype[Any]:
    """Returns the numpy type of a tensor. Raises KeyError for a type that inputs and outputs never have here."""
    import ml_dtypes
    import numpy as np

    names: dict[str, Any] = {
        "HALF": np.float16,
        "BF16": ml_dtypes.bfloat16,
        "FLOAT": np.float32,
        "INT32": np.int32,
        "INT64": np.int64,
        "BOOL": np.bool_,
        "INT8": np.int8,
        "UINT8": np.uint8,
    }
    numpy_dtype: np.dtype[Any] = np.dtype(names[dtype.name])
    return numpy_dtype


class BackendName(StrEnum):
    """Library that turns the ONNX file into an engine; `onnx` stops at the ONNX file."""

    TENSORRT = "tensorrt"
    TENSORRT_RTX = "tensorrt-rtx"
    ONNX = "onnx"


@dataclass(frozen=True)
class _Library:
    module: str
    core: str  # the unversioned name that the ONNX parser dlopens
    needs_gpu: bool
    install: str


_LIBRARIES = {
    BackendName.TENSORRT: _Library(
        "tensorrt",
        "libnvinfer.so",
        True,
        "install it: `pip install 'patch-compile[tensorrt]'`, from NVIDIA's package index (docs/howto/installing.md)",
    ),
    BackendName.TENSORRT_RTX: _Library(
        "tensorrt_rtx", "libtensorrt_rtx.so", False, "install it: `pip install 'patch-compile[rtx]'`"
    ),
}


class Backend:
    """TensorRT or TensorRT-RTX, as `load_backend` returns it.

    name: the library's name; trt: its Python module (both libraries have the same API); version: the module's version.
    """

    def __init__(self, name: BackendName, module: TensorRtApi) -> None:
        self.name = name
        self.trt = module
        self.version = str(module.__version__)

    @cached_property
    def logger(self) -> PythonLogger:
        """ILogger that forwards to Python's `logging`.

        There is one per process, because TensorRT keeps the first logger that it gets.
        """
        return _python_logger(self.trt)

    @property
    def compute_capabilities(self) -> Mapping[str, Any]:
        """Members of RTX's enum `ComputeCapability` by name (`SM86`): the architectures that RTX builds for ahead of time.

        Full TensorRT has no such enum.
        """
        rtx: Any = self.trt
        members: Mapping[str, Any] = rtx.ComputeCapability.__members__
        return members

    @property
    def builds_ahead(self) -> bool:
        """True if the library can build engines for GPUs that this machine does not have."""
        return not _LIBRARIES[self.name].needs_gpu

    def targets(self) -> tuple[GpuArchitecture, ...]:
        """Targets of its builds: the library's own list if it builds ahead of time, else the local GPU."""
        if not self.builds_ahead:
            local = local_architecture()
            return () if local is None else (local,)
        names = self.compute_capabilities
        return tuple(row for row in cards.ARCHITECTURES if row.tensorrt_name in names)

    def check_targets(self, targets: tuple[GpuArchitecture, ...]) -> None:
        """Raise PatchCompileError for a target that this backend can't build for."""
        possible = self.targets()
        for target in targets:
            if target not in possible:
                where = "other GPUs" if self.builds_ahead else "the GPU of this machine only"
                raise PatchCompileError(
                    f"{self.name} {self.version} can't build for {target.name}",
                    f"It builds for {', '.join(t.name for t in possible) or where}.",
                    "Choose another --target, or the other --backend.",
                )

    def let_parser_meet_plugins(self) -> None:
        """Prepare the ONNX parser for plugins. Without this call it may abort the process at the first plugin."""
        answer_to_unversioned_name(_LIBRARIES[self.name].core)


def available_backends() -> tuple[BackendName, ...]:
    """Returns the backends that work on this machine, best first; `onnx` always works."""
    usable = (name for name in _LIBRARIES if _reason_against(name) is None)
    return (*usable, BackendName.ONNX)


def default_backend() -> tuple[BackendName, str]:
    """Returns the backend to use if the user names no backend, and the reason in one line."""
    against = {name: _reason_against(name) for name in _LIBRARIES}
    for name, reason in against.items():
        if reason is None:
            skipped = [f"{library} {why}" for library, why in against.items() if why and library != name]
            version = _import(_LIBRARIES[name].module).__version__
            return name, "; ".join([f"{_LIBRARIES[name].module} {version} works here", *skipped])
    return BackendName.ONNX, "; ".join(f"{name} {reason}" for name, reason in against.items())


@cache
def load_backend(name: str) -> Backend:
    """Returns the backend called `tensorrt` or `tensorrt-rtx`.

    Raises PatchCompileError if its library is missing or needs a GPU that this machine lacks.
    """
    key = BackendName(name)
    if key not in _LIBRARIES:
        raise UsageError(
            f"The backend {name} builds no engine",
            "It stops at the ONNX file.",
            f"Choose another backend: --backend {' or '.join(_LIBRARIES)}.",
        )
    reason = _reason_against(key)
    if reason is not None:
        others = " or ".join(backend for backend in available_backends() if backend != key)
        needs_gpu = _LIBRARIES[key].needs_gpu and local_gpu() is None
        install = "" if needs_gpu else f", or {_LIBRARIES[key].install}"
        raise PatchCompileError(
            f"--backend {key} can't be used here",
            f"{key} {reason}.",
            f"Use --backend {others}, which works here{install}.",
        )
    return Backend(key, _import(_LIBRARIES[key].module))


def _reason_against(name: BackendName) -> str | None:
    library = _LIBRARIES[name]
    if library.needs_gpu and local_gpu() is None:
        return "needs a GPU to build, and no GPU answers"
    return None if _import(library.module) is not None else "is not installed"


@cache
def _import(module: str) -> Any:
    """Import a module. Returns None if it is missing or its shared libraries do not load."""
    try:
        library = importlib.import_module(module)
    except (ImportError, OSError, RuntimeError) as error:  # RuntimeError: from the stub wheel on PyPI
        _LOG.debug("%s does not import: %s", module, error)
        return None
    return library if hasattr(library, "Builder") else None


def _is_expected(message: str) -> bool:
    """True for a warning or an error that reports intended behaviour."""
    if _NO_DRIVER in message:
        return local_gpu() is None
    return any(part in message for part in _EXPECTED)


def _python_logger(trt: TensorRtApi) -> PythonLogger:
    if TYPE_CHECKING:
        from tensorrt import ILogger
    else:
        ILogger = trt.ILogger
    of = ILogger.Severity
    levels = {
        of.INTERNAL_ERROR: logging.ERROR,
        of.ERROR: logging.ERROR,
        of.WARNING: logging.WARNING,
        of.INFO: logging.INFO,
        of.VERBOSE: logging.DEBUG,
    }

    class Logger(ILogger):
        def __init__(self) -> None:
            ILogger.__init__(self)
            self.heard: Callable[[int, str], None] | None = None

        def log(self, severity: ILogger.Severity, msg: str) -> None:
            number = logging.DEBUG if _is_expected(msg) else levels.get(severity, logging.WARNING)
            _LOG.log(number, "%s", msg)
            if self.heard is not None:
                self.heard(number, msg)

    return cast("PythonLogger", Logger())
