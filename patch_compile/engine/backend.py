"""TensorRT or TensorRT-RTX behind one class; what this machine has, and which it should use."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cache, cached_property
from typing import TYPE_CHECKING, Any, cast

from patch_compile.engine.soname import answer_to_unversioned_name
from patch_compile.errors import PatchCompileError, UsageError
from patch_compile.hardware.gpu import local_gpu
from patch_compile.hardware.targets import TARGETS, Target, local_target

if TYPE_CHECKING:
    import tensorrt

    from patch_compile.engine.tensorrt_api import TensorRtApi

    class PythonLogger(tensorrt.ILogger):
        """An ILogger that also tells whoever listens: `heard(level, message)`, the level as Python logging has it."""

        heard: Callable[[int, str], None] | None


__all__ = ["Backend", "BackendName", "available_backends", "default_backend", "load_backend"]

# Linears without one kind of slab; token ids; a build that was asked to stop.
_EXPECTED = ("Empty initializer", "Int64 binding", "BuildCanceled")
# Logged after each API error where there is no driver, which is how RTX is used to build ahead of time.
_NO_DRIVER = "catchCudaError"
_LOG = logging.getLogger("patch_compile.engine.tensorrt")


class BackendName(StrEnum):
    """What turns the ONNX file into an engine; `onnx` stops before that."""

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
    BackendName.TENSORRT: _Library("tensorrt", "libnvinfer.so", True, "install NVIDIA TensorRT 11"),
    BackendName.TENSORRT_RTX: _Library(
        "tensorrt_rtx", "libtensorrt_rtx.so", False, "install it: `pip install 'patch-compile[rtx]'`"
    ),
}


class Backend:
    """One of the two libraries. Get it from `load_backend`.

    Attributes: `name`; `trt`, the Python module, whose API the two share; `version` of it.
    """

    def __init__(self, name: BackendName, module: TensorRtApi) -> None:
        self.name = name
        self.trt = module
        self.version = str(module.__version__)

    @cached_property
    def logger(self) -> PythonLogger:
        """The library's log as Python logging; one for the process, since the first one given wins."""
        return _python_logger(self.trt)

    @property
    def compute_capabilities(self) -> Mapping[str, Any]:
        """The architectures that it builds ahead of time for, by name (`SM86`). Full TensorRT has no such enum."""
        rtx: Any = self.trt
        members: Mapping[str, Any] = rtx.ComputeCapability.__members__
        return members

    @property
    def builds_ahead(self) -> bool:
        """Whether engines for other GPUs than this machine's can be built."""
        return not _LIBRARIES[self.name].needs_gpu

    def targets(self) -> tuple[Target, ...]:
        """What it can build for: the library's own list when it builds ahead of time, else the local GPU."""
        if not self.builds_ahead:
            target = local_target()
            return () if target is None else (target,)
        names = self.compute_capabilities
        return tuple(target for target in TARGETS.values() if target.name.upper() in names)

    def check_targets(self, targets: tuple[Target, ...]) -> None:
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
        """Call before every parse: without it the parser may abort the process at the first plugin."""
        answer_to_unversioned_name(_LIBRARIES[self.name].core)


def available_backends() -> tuple[BackendName, ...]:
    """The backends that work on this machine, best first; `onnx` always does."""
    usable = (name for name in _LIBRARIES if _reason_against(name) is None)
    return (*usable, BackendName.ONNX)


def default_backend() -> tuple[BackendName, str]:
    """The backend to use when none is named, and why, in one line."""
    against = {name: _reason_against(name) for name in _LIBRARIES}
    for name, reason in against.items():
        if reason is None:
            skipped = [f"{other} {why}" for other, why in against.items() if why and other != name]
            version = _import(_LIBRARIES[name].module).__version__
            return name, "; ".join([f"{_LIBRARIES[name].module} {version} works here", *skipped])
    return BackendName.ONNX, "; ".join(f"{name} {reason}" for name, reason in against.items())


@cache
def load_backend(name: str) -> Backend:
    """The backend called `tensorrt` or `tensorrt-rtx`.

    Raises PatchCompileError when its library is missing or needs a GPU that is not there.
    """
    key = BackendName(name)
    if key not in _LIBRARIES:
        raise UsageError(
            f"The backend {name} builds no engine",
            "It stops at the ONNX file.",
            f"Choose another one: --backend {' or '.join(_LIBRARIES)}.",
        )
    reason = _reason_against(key)
    if reason is not None:
        others = " or ".join(other for other in available_backends() if other != key)
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
    """The module, or None; an installation whose shared libraries don't load counts as missing."""
    try:
        found = importlib.import_module(module)
    except (ImportError, OSError, RuntimeError) as error:  # RuntimeError: the wheel of PyPI is a stub
        _LOG.debug("%s does not import: %s", module, error)
        return None
    return found if hasattr(found, "Builder") else None


def _is_expected(message: str) -> bool:
    """Whether a warning or an error is about something that is meant to be as it is."""
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
