"""Examines this machine for `patch-compile doctor`: what it can do, and a fix for everything that is missing."""

from __future__ import annotations

import ctypes
import os
import platform
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from masklearn.base.extras import missing_packages
from patch_compile.engine.backend import BackendName, load_backend
from patch_compile.errors import PatchCompileError
from patch_compile.hardware.cards import local_architecture
from patch_compile.hardware.gpu import DRIVER, local_gpu
from patch_compile.plugin.build import BACKENDS, cached_plugins
from patch_compile.plugin.prebuilt import DISTRIBUTION, prebuilt_library, why_no_prebuilt
from patch_compile.plugin.toolchain import describe_toolchain

_BUILD = "build packages"
_PACKAGED = "compiled plugin"
_LOW_DISK = 20e9  # bytes; enough for the files of a 1B model


@dataclass(frozen=True)
class Finding:
    """Result of one check.

    what: name of the checked thing; found: True if it is there; about: its place, version or size, in words, or the reason
    why it is not there; fix: how to get it, empty if it is there.
    """

    what: str
    found: bool
    about: str
    fix: str = ""


def examine() -> dict[str, Any]:
    """Returns `findings` (see `Finding`), and in words the tasks that this machine `can` and `cannot` do.

    It builds and downloads nothing.
    """
    findings = [*_machine(), *_gpu(), *_libraries(), *_toolchain(), _plugin_cache(), _plugin_package()]
    can, cannot = _verdict(findings)
    return {"findings": [asdict(finding) for finding in findings], "can": can, "cannot": cannot}


def _machine() -> Iterator[Finding]:
    import psutil

    yield Finding(
        "system", True, f"{platform.system()} {platform.machine()}, Python {platform.python_version()}"
    )
    memory = psutil.virtual_memory()
    yield Finding("processor", True, f"{os.cpu_count()} cores")
    yield Finding(
        "memory", True, f"{memory.available / 2**30:.1f} GiB free of {memory.total / 2**30:.1f} GiB"
    )
    disk = shutil.disk_usage(Path.cwd())
    about = f"{disk.free / 1e9:.0f} GB free of {disk.total / 1e9:.0f} GB here"
    enough = disk.free >= _LOW_DISK
    yield Finding("disk", enough, about, "" if enough else "make room, or build to another disk with -o")


def _gpu() -> Iterator[Finding]:
    driver = _driver_version()
    yield Finding(
        "NVIDIA driver",
        driver is not None,
        f"for CUDA {driver}" if driver else f"{DRIVER} does not load",
        "" if driver else "install NVIDIA's driver, to run engines here",
    )
    gpu, target = local_gpu(), local_architecture()
    if gpu is None:
        yield Finding(
            "GPU", False, "none answers", "build with --target for the card that will run the engine"
        )
        return
    capability = ".".join(map(str, gpu.compute_capability))
    unknown = (
        "" if target else "use a card of compute capability 8.0 or newer that --target knows, which 2:4 needs"
    )
    yield Finding("GPU", target is not None, f"{gpu.name}, compute capability {capability}", unknown)


def _driver_version() -> str | None:
    try:
        driver = ctypes.CDLL(DRIVER)
    except OSError:
        return None
    number = ctypes.c_int()
    if driver.cuDriverGetVersion(ctypes.byref(number)) != 0:
        return None
    return f"{number.value // 1000}.{number.value % 1000 // 10}"


def _libraries() -> Iterator[Finding]:
    for name in (BackendName.TENSORRT, BackendName.TENSORRT_RTX):
        try:
            backend = load_backend(name)
        except PatchCompileError as error:
            yield Finding(name, False, error.why, error.fix)
            continue
        targets = ", ".join(target.name for target in backend.targets())
        yield Finding(name, True, f"{backend.version}, builds for {targets}")
    for package in ("onnxruntime-gpu", "onnxruntime"):
        if number := _version(package):
            yield Finding("ONNX Runtime", True, f"{package} {number}: {', '.join(_providers())}")
            break
    else:
        yield Finding("ONNX Runtime", False, "is not installed", "pip install onnxruntime")
    missing, torch = missing_packages("build"), _version("torch")
    about = f"not installed: {', '.join(missing)}" if missing else f"PyTorch {torch}"
    yield Finding(_BUILD, not missing, about, "pip install 'patch-compile[build]'" if missing else "")


def _providers() -> list[str]:
    import onnxruntime

    return [name.removesuffix("ExecutionProvider") for name in onnxruntime.get_available_providers()]


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _toolchain() -> Iterator[Finding]:
    """Yield findings about the tools that compile the plugin, for the backend that is installed."""
    backend = next((name for name in BACKENDS if _loads(name)), BACKENDS[-1])
    for item in describe_toolchain(backend):
        yield Finding(item.what, item.found, item.where, item.fix)


def _loads(backend: str) -> bool:
    try:
        load_backend(backend)
    except PatchCompileError:
        return False
    return True


def _plugin_cache() -> Finding:
    folder, libraries = cached_plugins()
    if not libraries:
        return Finding(
            "plugin",
            False,
            f"none in {folder} yet",
            "it is built when it is needed, or by `patch-compile plugin`",
        )
    size = sum(library.stat().st_size for library in libraries)
    return Finding("plugin", True, f"{len(libraries)} in {folder}, {size / 1e6:.0f} MB")


def _plugin_package() -> Finding:
    """Returns the finding about patch-compile-plugin, which saves compiling the plugin."""
    usable = [backend for backend in BACKENDS if prebuilt_library(backend)]
    why = next(filter(None, map(why_no_prebuilt, BACKENDS)), "")
    if usable:
        about = f"{DISTRIBUTION} {_version(DISTRIBUTION)}, for {' and '.join(usable)}"
        return Finding(_PACKAGED, True, f"{about}; {why}" if why else about)
    about = f"{DISTRIBUTION} is not used: {why}" if why else f"{DISTRIBUTION} is not installed"
    return Finding(_PACKAGED, False, about, "the plugin is compiled here instead")


def _verdict(findings: list[Finding]) -> tuple[list[str], list[str]]:
    """Returns the tasks that the machine can do, and those that it can't with the reason."""
    have = {finding.what for finding in findings if finding.found}
    backends = [name for name in (BackendName.TENSORRT, BackendName.TENSORRT_RTX) if name in have]
    builds_plugin = {"nvcc", "C++ compiler", "plugin sources"} <= have
    engines = bool(backends) and (builds_plugin or {"plugin", _PACKAGED} & have)
    no_engine = "no TensorRT" if not backends else "no compiler for the plugin" if not engines else ""
    abilities = (
        ("run ONNX files on ONNX Runtime", "ONNX Runtime" in have, "no ONNX Runtime"),
        ("learn masks and compile to ONNX", _BUILD in have, f"no {_BUILD}"),
        (
            f"build engines with {' and '.join(backends) or 'TensorRT'}",
            engines and _BUILD in have,
            no_engine or f"no {_BUILD}",
        ),
        ("run engines", engines and "GPU" in have, "no GPU" if "GPU" not in have else no_engine),
    )
    can = [task for task, yes, _ in abilities if yes]
    return can, [f"{task}: {why}" for task, yes, why in abilities if not yes]
