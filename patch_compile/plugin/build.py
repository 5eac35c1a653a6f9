"""Compiles the PatchLinear plugin on the user's machine, and reads the identity of a compiled one.

Compiling needs nvcc 12.8 or newer (from a CUDA toolkit or the `nvidia-cuda-nvcc` wheels), a C++ compiler, and TensorRT's
headers (from an installation, else the Apache-2.0 headers of 10.14 in a pinned package). It does not need cmake, because
nvcc is called directly; `plugins/CMakeLists.txt` is for building the same library by hand.
"""

from __future__ import annotations

import hashlib
import json
import logging
import mmap
import os
import re
import tempfile
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

from masklearn.durable import flush_folder, flush_tree
from patch_compile.errors import PatchCompileError, UsageError
from patch_compile.out.stage_files import sha256_of
from patch_compile.plugin.compiling import (
    COMPILE_FLAGS,
    KERNELS,
    compile_units,
    kernel_objects,
    link,
    locked,
    plugin_cache,
    units,
)
from patch_compile.plugin.prebuilt import DISTRIBUTION, LIBRARY_NAME, prebuilt_library, why_no_prebuilt
from patch_compile.plugin.toolchain import (
    HEADER_PACKAGE,
    JETSONS,
    Tool,
    code_flags,
    fetch_headers,
    find_cxx,
    find_headers,
    find_nvcc,
    plugin_sources,
    runs_on,
)

__all__ = [
    "ARCHS",
    "BACKENDS",
    "LIBRARY_NAME",
    "VARIABLE",
    "PluginIdentity",
    "PluginLibrary",
    "archs_for",
    "build_plugin",
    "cached_plugins",
    "check_backend",
    "read_identity",
    "wanted_archs",
]

ARCHS = (80, 86, 89, 90, 120)
VARIABLE = "PATCH_COMPILE_PLUGIN_ARCHS"
"""Variable that names the architectures to compile for, instead of all: `86` compiles for one GPU in less time."""
BACKENDS = ("tensorrt", "tensorrt-rtx")
_KEY_LENGTH = 24

_FOLDERS = (KERNELS, "dense_path", "tensorrt")
_LINK_FLAGS = ("-shared", "-cudart", "static", "-Xlinker", "-z,nodelete,-z,defs,--exclude-libs,ALL")
_IDENTITY = re.compile(
    rb"patch-linear-plugin version=(\d{1,9}) backend=([a-z-]{1,32}) cuda=([\d.]{1,32}) "
    rb"archs=(\d{2,4}(?:,\d{2,4}){0,31}) headers=([\d.]{1,32})\0"
)

Log = Callable[[str], None]
_LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True)
class PluginLibrary:
    """Compiled plugin, with the tools that compiled it.

    archs: compute capabilities times ten; nvcc, headers: None for the library of patch-compile-plugin; headers_package:
    package that the headers were downloaded from, None for those of an installed TensorRT; fingerprint: key of the library
    in the cache, or the beginning of its sha256.
    """

    path: Path
    backend: str
    archs: tuple[int, ...]
    nvcc: Path | None
    nvcc_version: str
    headers: Path | None
    headers_version: str
    headers_package: str | None
    fingerprint: str


@dataclass(frozen=True)
class PluginIdentity:
    """Identity that a plugin library contains as text.

    version: of the plugin; backend: library that it registers itself with; cuda: version of nvcc; archs: compute
    capabilities times ten; headers: version of TensorRT's headers.
    """

    version: int
    backend: str
    cuda: str
    archs: tuple[int, ...]
    headers: str


def build_plugin(
    backend: str,
    *,
    archs: tuple[int, ...] | None = None,
    cache_dir: Path | None = None,
    force: bool = False,
    prebuilt: bool = True,
    log: Log = _LOGGER.info,
) -> PluginLibrary:
    """Returns the plugin for `backend` ("tensorrt" or "tensorrt-rtx"): of the package patch-compile-plugin if that is
    installed and this release's, else compiled here, or from the cache.

    The key of the cache covers the content of sources and headers, the compilers, `archs`, backend and flags. Several
    processes may call this at the same time.

    archs: compute capabilities times ten, None for those of PATCH_COMPILE_PLUGIN_ARCHS, or all of ARCHS; cache_dir: the
    cache, None for `~/.cache/patch-compile/plugin` (or below XDG_CACHE_HOME); force: compile even if the cache has the
    library; prebuilt: False never takes that of patch-compile-plugin; log: called with messages.

    Raises UsageError for an unknown backend, and PatchCompileError if nvcc, the C++ compiler or the headers are missing or
    unsuitable, or nvcc fails.
    """
    archs = wanted_archs() if archs is None else archs
    _check_request(backend, archs)
    if prebuilt and not force and (found := _prebuilt(backend, archs, log)):
        return found
    cache = cache_dir or plugin_cache()
    cache.mkdir(parents=True, exist_ok=True)
    nvcc, cxx = find_nvcc(), find_cxx()
    installed = find_headers(backend)
    headers = installed or fetch_headers(cache, log)
    package = None if installed else HEADER_PACKAGE
    fingerprint = _fingerprint(backend, archs, nvcc, cxx, headers)
    library = PluginLibrary(
        cache / fingerprint / LIBRARY_NAME, backend, archs, *nvcc, *headers, package, fingerprint
    )
    library.path.parent.mkdir(exist_ok=True)
    with locked(library.path.parent / "lock"):
        if force or not _is_whole(library):
            log(f"compiling the plugin for {backend}, {_sm_names(archs)}, with nvcc {nvcc.version}")
            _compile(library, nvcc, cxx, force)
        else:
            os.utime(library.path)  # `matching_library` takes the one that was used last
    return library


def _prebuilt(backend: str, archs: tuple[int, ...], log: Log) -> PluginLibrary | None:
    if why := why_no_prebuilt(backend):
        log(f"{DISTRIBUTION} is not used: {why}")
    library = prebuilt_library(backend)
    identity = check_backend(library, backend) if library else None
    if library is None or identity is None or not {*archs} <= {*identity.archs}:
        return None
    key = sha256_of(library)[:_KEY_LENGTH]
    return PluginLibrary(
        library, backend, identity.archs, None, identity.cuda, None, identity.headers, None, key
    )


def wanted_archs() -> tuple[int, ...]:
    """Returns the architectures that a plugin is compiled for unless the caller names others.

    Raises UsageError for a value of the variable that is no list of numbers.
    """
    said = os.environ.get(VARIABLE, "")
    try:
        named = tuple(sorted({int(one) for one in said.split(",")})) if said else ARCHS
    except ValueError:
        named = ()
    if not {*named} <= {*ARCHS, *JETSONS} or not named:
        raise UsageError(
            f"{VARIABLE} is {said!r}",
            f"It names architectures of {', '.join(map(str, sorted((*ARCHS, *JETSONS))))}, with commas between them.",
            "Correct it, or unset it.",
        )
    return named


def archs_for(sms: Collection[int]) -> tuple[int, ...]:
    """Returns the architectures to compile a plugin for. GPUs of these compute capabilities, times ten, run it.

    They are those of `wanted_archs`; unless the user names some, Jetsons among the GPUs are added.
    Raises UsageError if PATCH_COMPILE_PLUGIN_ARCHS names architectures that one of the GPUs does not run.
    """
    archs = wanted_archs()
    if not os.environ.get(VARIABLE):
        archs = tuple(sorted({*archs, *({*sms} & {*JETSONS})}))
    for sm in sms:
        if not runs_on(sm, archs):
            raise UsageError(
                f"sm{sm} does not run the plugin that {VARIABLE} asks for",
                f"It is for {', '.join(f'sm{arch}' for arch in archs)}.",
                f"Add {sm} to it, or unset it.",
            )
    return archs


def read_identity(path: Path) -> PluginIdentity:
    """Read the identity of the plugin library at `path` without loading it.

    Raises PatchCompileError if the file is missing or no PatchLinear plugin.
    """
    fix = "Build it with `patch-compile plugin`."
    if not path.is_file() or path.stat().st_size == 0:
        raise PatchCompileError(f"{path} is no plugin library", "There is no such file, or it is empty.", fix)
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        match = _IDENTITY.search(content)
        if match is None:
            raise PatchCompileError(
                f"{path} is no PatchLinear plugin", "Its identity string is missing.", fix
            )
        version, backend, cuda, archs, headers = (group.decode() for group in match.groups())
    arch_list = tuple(int(arch) // 10 for arch in archs.split(","))
    return PluginIdentity(int(version), backend, cuda, arch_list, headers)


def cached_plugins() -> tuple[Path, list[Path]]:
    """Returns the folder of the cache and the libraries in it."""
    cache = plugin_cache()
    return cache, sorted(cache.glob(f"*/{LIBRARY_NAME}"))


def check_backend(path: Path, backend: str) -> PluginIdentity:
    """Returns the identity of a plugin library. Raises PatchCompileError if it was built for another backend."""
    identity = read_identity(path)
    if identity.backend != backend:
        raise PatchCompileError(
            f"{path} was built for {identity.backend}, and this run uses {backend}",
            "The plugin registers itself with one of the two libraries only.",
            f"Build it with `patch-compile plugin --backend {backend}`.",
        )
    return identity


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
    code = [flag for name in _FOLDERS for unit in units(sources / name) for flag in code_flags(unit, archs)]
    flags = [*COMPILE_FLAGS, *_LINK_FLAGS, *code]
    digest = hashlib.sha256(json.dumps([backend, nvcc.version, cxx.version, flags]).encode())
    for folder in (*(sources / name for name in _FOLDERS), headers.path):
        pattern = "NvInfer*.h" if folder == headers.path else "*"
        for file in sorted(p for p in folder.glob(pattern) if p.is_file()):
            digest.update(f"\0{file.name}\0".encode() + file.read_bytes())
    return digest.hexdigest()[:_KEY_LENGTH]


def _compile(library: PluginLibrary, nvcc: Tool, cxx: Tool, force: bool) -> None:
    own, archs = library.path.parent, library.archs
    flags = [f"-DPATCH_BACKEND={library.backend}", "-isystem", str(library.headers)]
    kernels = kernel_objects(own.parent, archs, nvcc, cxx, force=force)
    with tempfile.TemporaryDirectory(dir=own) as tmp:
        rest = [unit for name in _FOLDERS if name != KERNELS for unit in units(plugin_sources() / name)]
        objects = [*kernels, *compile_units(rest, Path(tmp), archs, nvcc.path, flags)]
        fresh = Path(tmp) / LIBRARY_NAME
        link(objects, fresh, archs, nvcc.path, _LINK_FLAGS)
        check_backend(fresh, library.backend)
        flush_tree(fresh)
        fresh.replace(library.path)
        flush_folder(own)


def _is_whole(library: PluginLibrary) -> bool:
    try:
        identity = read_identity(library.path)
    except PatchCompileError:
        return False
    return identity.backend == library.backend and set(identity.archs) == set(library.archs)
