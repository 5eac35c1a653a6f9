"""Loads the PatchLinear plugin into TensorRT's registry, once per process, and tells it where cuBLASLt is."""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path
from typing import Any

from patch_compile.artifacts.stage_files import sha256_of
from patch_compile.engine.backend import Backend
from patch_compile.errors import PatchCompileError
from patch_compile.packing.function import NAME, VERSION
from patch_compile.plugin.identity import check_backend

VARIABLE = "PATCH_CUBLASLT"  # read by the plugin; a value that the user has set is kept
# Paths of the library in the nvidia-cublas wheels of CUDA 13 and 12, below site-packages.
_IN_WHEELS = ("nvidia/cu13/lib/libcublasLt.so.13", "nvidia/cublas/lib/libcublasLt.so.12")
_NAMESPACE = ""

_loaded: dict[str, str] = {}  # backend → sha256 of the library whose PatchLinear is registered
# backend, sha256 of a library → its creator; libraries are never closed
_known: dict[tuple[str, str], Any] = {}


def load_plugin(backend: Backend, path: Path) -> None:
    """Register the plugin library at `path` with the backend's registry, in the place of an earlier one.

    Libraries differ in their kernels, so engines of one process may need several. Engines that are loaded keep theirs.

    Raises PatchCompileError when the library is missing, can't be loaded, was built for another backend or another kind of
    machine, or holds no PatchLinear, and when this process was started with a plugin.
    """
    check_backend(path, backend.name)
    content = sha256_of(path)
    if _loaded.get(backend.name) == content:
        return
    registry = backend.trt.get_plugin_registry()
    if earlier := _loaded.pop(backend.name, None):
        registry.deregister_creator(_known[backend.name, earlier])
    if _creators(backend):
        raise PatchCompileError(
            "Another PatchLinear plugin is already loaded in this process",
            f"TensorRT keeps the first of a name, so {path} would not be used.",
            "Build in a fresh process, without preloading a plugin.",
        )
    key = backend.name, content
    if key in _known:
        registry.register_creator(_known[key], _NAMESPACE)
    else:
        _load(backend, path)
        (_known[key],) = _creators(backend)
    _loaded[backend.name] = content


def _load(backend: Backend, path: Path) -> None:
    name_cublaslt()
    # The library registers itself when it is loaded. load_library then closes a library whose creators are already
    # registered, which would leave dangling pointers in the registry (RTX 1.7.1). So open it here first, and never
    # close it.
    try:
        library = ctypes.CDLL(str(path.resolve()))
    except OSError as error:
        raise PatchCompileError(f"The plugin {path} can't be loaded", str(error), _REBUILD) from None
    if not hasattr(library, "getCreators"):
        raise PatchCompileError(f"{path} is not a TensorRT plugin", "It exports no getCreators.", _REBUILD)
    if not _creators(backend):
        backend.trt.get_plugin_registry().load_library(str(path.resolve()))
    if not _creators(backend):
        raise PatchCompileError(
            f"The plugin {path} does not register {NAME}",
            f"{backend.name} {backend.version} refused it, or it holds another operator.",
            _REBUILD,
        )


_REBUILD = "Build it with `patch-compile plugin --force`."


def _creators(backend: Backend) -> list[Any]:
    """Returns the registered creators of PatchLinear: one, or none."""
    wanted = (NAME, str(VERSION), _NAMESPACE)
    return [
        creator
        for creator in backend.trt.get_plugin_registry().all_creators
        if (creator.name, creator.plugin_version, creator.plugin_namespace) == wanted
    ]


def name_cublaslt() -> None:
    """Set `PATCH_CUBLASLT` to the library of an installed wheel, which is on no library search path. Loads nothing."""
    if os.environ.get(VARIABLE):
        return
    for name in _IN_WHEELS:
        for folder in filter(None, sys.path):
            if (Path(folder) / name).is_file():
                os.environ[VARIABLE] = str(Path(folder) / name)
                return
