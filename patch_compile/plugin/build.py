"""Compiles the PatchLinear plugin on the user's machine, and reads the identity of a compiled plugin.

Compiling needs nvcc 12.8 or newer (from a CUDA toolkit or the `nvidia-cuda-nvcc` wheels), a C++ compiler, and TensorRT's
headers (from an installation, else the Apache-2.0 headers of 10.14 in a pinned package). It does not need cmake, because
nvcc is called directly; `plugins/CMakeLists.txt` is for building the same library by hand.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import tempfile
from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path

from masklearn.base.durable import flush_folder, flush_tree
from patch_compile.artifacts.stage_files import sha256_of
from patch_compile.errors import PatchCompileError, UsageError
from patch_compile.plugin.compiling import (
    COMPILE_FLAGS,
    KERNELS_FOLDER,
    compile_units,
    kernel_objects,
    link,
    locked,
    plugin_cache,
    units,
)
from patch_compile.plugin.identity import check_backend, identity_in, read_identity
from patch_compile.plugin.kernels import KERNELS, in_order, kernel_source, spell_kernels
from patch_compile.plugin.prebuilt import DISTRIBUTION, LIBRARY_NAME, prebuilt_library, why_no_prebuilt
from patch_compile.plugin.targets import ARCHS, this_machine, wanted_archs
from patch_compile.plugin.toolchain import (
    HEADER_PACKAGE,
    Log,
    Tool,
    code_flags,
    fetch_headers,
    find_cxx,
    find_headers,
    find_nvcc,
    plugin_sources,
)

BACKENDS = ("tensorrt", "tensorrt-rtx")
_KEY_LENGTH = 24

_FOLDERS = (KERNELS_FOLDER, "dense_path", "tensorrt")
_LINK_FLAGS = ("-shared", "-cudart", "static", "-Xlinker", "-z,nodelete,-z,defs,--exclude-libs,ALL")
_LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True)
class PluginLibrary:
    """Compiled plugin, with the tools that compiled it.

    archs: compute capabilities times ten; kernels: groups of kernels, see `plugin.kernels`; nvcc, headers: None for the
    library of patch-compile-plugin; headers_package: package that the headers were downloaded from, None for the headers of
    an installed TensorRT; fingerprint: key of the library in the cache, or the beginning of its sha256.
    """

    path: Path
    backend: str
    archs: tuple[int, ...]
    kernels: tuple[str, ...]
    nvcc: Path | None
    nvcc_version: str
    headers: Path | None
    headers_version: str
    headers_package: str | None
    fingerprint: str


def build_plugin(
    backend: str,
    *,
    archs: tuple[int, ...] | None = None,
    kernels: Collection[str] = KERNELS,
    cache_dir: Path | None = None,
    force: bool = False,
    prebuilt: bool = True,
    log: Log = _LOGGER.info,
) -> PluginLibrary:
    """Returns the plugin for `backend` ("tensorrt" or "tensorrt-rtx"): from the package patch-compile-plugin if it is
    installed in this release's version, else from the cache, else compiled here.

    The key of the cache covers the content of sources and headers, the compilers, `archs`, backend, flags and kernels. A
    library of the cache that only has more kernels is taken too. Several processes may call this at the same time.

    archs: compute capabilities times ten, None for the value of PATCH_COMPILE_PLUGIN_ARCHS or, without it, ARCHS;
    kernels: groups that the library has at least, see `plugin.kernels`; cache_dir: the cache, None for
    `~/.cache/patch-compile/plugin` (or below XDG_CACHE_HOME); force: compile even if the cache has the library; prebuilt:
    False never takes the library of patch-compile-plugin; log: called with messages.

    Raises UsageError for an unknown backend, and PatchCompileError if nvcc, the C++ compiler or the headers are
    missing or unsuitable, or nvcc fails.
    """
    archs = wanted_archs() if archs is None else archs
    _check_request(backend, archs)
    if prebuilt and not force and (ready := _prebuilt(backend, archs, kernels, log)):
        return ready
    cache = cache_dir or plugin_cache()
    cache.mkdir(parents=True, exist_ok=True)
    nvcc, cxx = find_nvcc(), find_cxx()
    installed = find_headers(backend)
    headers = installed or fetch_headers(cache, log)
    package = None if installed else HEADER_PACKAGE
    fingerprint = _fingerprint(backend, archs, nvcc, cxx, headers)
    groups = in_order(kernels)
    key = fingerprint if groups == KERNELS else f"{fingerprint}-{spell_kernels(groups)}"
    library = PluginLibrary(cache / key / LIBRARY_NAME, backend, archs, groups, *nvcc, *headers, package, key)
    if not force and (ready := _cached(library, fingerprint)):
        return ready
    library.path.parent.mkdir(exist_ok=True)
    with locked(library.path.parent / "lock"):
        if not force and (ready := _cached(library, fingerprint)):  # another process compiled it
            return ready
        log(_about(library))
        _compile(library, nvcc, cxx, force)
    return library


def _prebuilt(
    backend: str, archs: tuple[int, ...], kernels: Collection[str], log: Log
) -> PluginLibrary | None:
    if why := why_no_prebuilt(backend):
        log(f"{DISTRIBUTION} is not used: {why}")
    library = prebuilt_library(backend)
    identity = check_backend(library, backend) if library else None
    if library is None or identity is None:
        return None
    if not ({*archs} <= {*identity.archs} and {*kernels} <= {*identity.kernels}):
        return None
    key = sha256_of(library)[:_KEY_LENGTH]
    return PluginLibrary(
        library,
        backend,
        identity.archs,
        identity.kernels,
        None,
        identity.cuda,
        None,
        identity.headers,
        None,
        key,
    )


def cached_plugins() -> tuple[Path, list[Path]]:
    cache = plugin_cache()
    return cache, sorted(cache.glob(f"*/{LIBRARY_NAME}"))


def _check_request(backend: str, archs: tuple[int, ...]) -> None:
    if backend not in BACKENDS:
        raise UsageError(
            f"The backend {backend} has no plugin",
            f"It is one of {', '.join(BACKENDS)}.",
            "Choose one of these.",
        )
    if not archs or min(archs) < 80:
        raise PatchCompileError(
            f"No plugin for {_sm_names(archs) or 'no architecture'}",
            "2:4 sparsity needs the tensor cores of Ampere (sm_80) or newer.",
            f"Choose architectures from {', '.join(map(str, ARCHS))}.",
        )


def _sm_names(archs: tuple[int, ...]) -> str:
    return " ".join(f"sm_{arch}" for arch in archs)


def _fingerprint(backend: str, archs: tuple[int, ...], nvcc: Tool, cxx: Tool, headers: Tool) -> str:
    sources = plugin_sources()
    flags = [*COMPILE_FLAGS, *_LINK_FLAGS, *code_flags(archs)]
    digest = hashlib.sha256(json.dumps([backend, nvcc.version, cxx.version, flags, this_machine()]).encode())
    for folder in (*(sources / name for name in _FOLDERS), headers.path):
        pattern = "NvInfer*.h" if folder == headers.path else "*"
        for file in sorted(p for p in folder.glob(pattern) if p.is_file()):
            digest.update(f"\0{file.name}\0".encode() + file.read_bytes())
    return digest.hexdigest()[:_KEY_LENGTH]


def _compile(library: PluginLibrary, nvcc: Tool, cxx: Tool, force: bool) -> None:
    own, archs = library.path.parent, library.archs
    flags = [*identity_flags(library), "-isystem", str(library.headers)]
    left_out = {kernel_source(group) for group in KERNELS if group not in library.kernels}
    names = {unit.name for unit in units(plugin_sources() / KERNELS_FOLDER)} - left_out
    kernels = kernel_objects(own.parent, archs, nvcc, cxx, names=names, force=force)
    with tempfile.TemporaryDirectory(dir=own) as tmp:
        rest = [
            unit for name in _FOLDERS if name != KERNELS_FOLDER for unit in units(plugin_sources() / name)
        ]
        objects = [*kernels, *compile_units(rest, Path(tmp), archs, nvcc.path, flags)]
        fresh = Path(tmp) / LIBRARY_NAME
        link(objects, fresh, archs, nvcc.path, _LINK_FLAGS)
        _check_made(fresh, library)
        flush_tree(fresh)
        fresh.replace(library.path)
        flush_folder(own)


def identity_flags(library: PluginLibrary) -> list[str]:
    """Returns nvcc's flags that tell a library what it is, for plugins/tensorrt/build_info.cu."""
    archs = r"\,".join(str(10 * arch) for arch in library.archs)  # nvcc would split a list at its commas
    about = {"BACKEND": library.backend, "KERNELS": spell_kernels(library.kernels), "ARCHS": archs}
    return [f"-DPATCH_{name}={value}" for name, value in about.items()]


def _check_made(fresh: Path, library: PluginLibrary) -> None:
    """Raise PatchCompileError if a new library has another backend than requested."""
    backend = read_identity(fresh).backend
    if backend != library.backend:
        raise PatchCompileError(
            f"The plugin was compiled for {backend}, not for {library.backend}",
            "Its sources do not take the backend from PATCH_BACKEND.",
            "Install patch-compile again.",
        )


def _cached(library: PluginLibrary, fingerprint: str) -> PluginLibrary | None:
    """Returns a library of the cache that was compiled like this one and has at least its kernels."""
    for path in sorted(library.path.parents[1].glob(f"{fingerprint}*/{LIBRARY_NAME}")):
        identity = identity_in(path)
        if identity is None:  # damaged
            continue
        same = (identity.backend, {*identity.archs}, identity.machine)
        if same == (library.backend, {*library.archs}, this_machine()) and (
            {*library.kernels} <= {*identity.kernels}
        ):
            os.utime(path)  # `matching_library` takes the library that was used last
            return replace(library, path=path, kernels=identity.kernels, fingerprint=path.parent.name)
    return None


def _about(library: PluginLibrary) -> str:
    """Returns a line about a library that is going to be compiled."""
    kernels = "all" if library.kernels == KERNELS else f"only the {spell_kernels(library.kernels)}"
    return (
        f"compiling the plugin for {library.backend}, {_sm_names(library.archs)}, {kernels} kernels, "
        f"with nvcc {library.nvcc_version}"
    )
