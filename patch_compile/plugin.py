"""Compiles the PatchLinear plugin on the user's machine and knows what a compiled one was made for.

What is needed: nvcc 12.5 or newer (a CUDA toolkit or the `nvidia-cuda-nvcc` wheels), a C++ compiler, and TensorRT's
headers (an installation, else the Apache-2.0 headers of 10.14 in a pinned package). nvcc is called directly, so cmake
may be absent; `plugins/CMakeLists.txt` builds the same library by hand.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import mmap
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

from patch_compile.errors import PatchCompileError

__all__ = [
    "ARCHS",
    "BACKENDS",
    "LIBRARY_NAME",
    "PluginIdentity",
    "PluginLibrary",
    "ToolchainItem",
    "build_plugin",
    "check_backend",
    "describe_toolchain",
    "read_identity",
]

ARCHS = (80, 86, 89, 90)
BACKENDS = ("tensorrt", "tensorrt-rtx")
LIBRARY_NAME = "libpatch_linear.so"

_MIN_NVCC = (12, 5)  # PTX 8.5, the first with mma.sp::ordered_metadata
_MIN_HEADERS = (10, 0)  # IPluginV3
_HEADER_PACKAGE = "kernel-lens==2.0.1"
_HEADER_SHA256 = "07cc714e8b5e7f34b672f7c7fad93febe7c747be5837ba276b1527370134ffe0"
_HEADER_FOLDER = "kernel_lens/include/tensorrt/"
_NVCC_FIX = (
    "Install a CUDA toolkit (12.5 or newer) or `pip install 'patch-compile[nvcc]'`, "
    "or set CUDACXX to the path of nvcc."
)
_HEADERS_FIX = "Set TENSORRT_ROOT to a TensorRT installation (a folder that holds include/NvInferRuntime.h)."
_CXX_FIX = "Install g++, or set NVCC_CCBIN to the C++ compiler nvcc shall use."
_COMPILE_FLAGS = ("-std=c++17", "-O3", "-DNDEBUG", "-Xcompiler", "-fPIC,-fvisibility=hidden")
_LINK_FLAGS = ("-shared", "-cudart", "static", "-Xlinker", "-z,nodelete,-z,defs,--exclude-libs,ALL")
_IDENTITY = re.compile(
    rb"patch-linear-plugin version=(\d+) backend=([a-z-]+) cuda=([\d.]+) archs=([\d,]+) headers=([\d.]+)\0"
)

Log = Callable[[str], None]
_LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True)
class PluginLibrary:
    """A compiled plugin and what it was compiled with."""

    path: Path
    backend: str
    archs: tuple[int, ...]
    nvcc: Path
    nvcc_version: str
    headers: Path
    headers_version: str
    fingerprint: str


@dataclass(frozen=True)
class PluginIdentity:
    """What a plugin says of itself; `archs` are compute capabilities times ten."""

    version: int
    backend: str
    cuda: str
    archs: tuple[int, ...]
    headers: str


class ToolchainItem(NamedTuple):
    """One thing that building the plugin needs: where it is and which version, or how to get it."""

    what: str
    found: bool
    where: str
    fix: str


class _Tool(NamedTuple):
    path: Path
    version: str


def build_plugin(
    backend: str,
    *,
    archs: tuple[int, ...] = ARCHS,
    cache_dir: Path | None = None,
    force: bool = False,
    log: Log = _LOGGER.info,
) -> PluginLibrary:
    """Compile the plugin for `backend` ("tensorrt" or "tensorrt-rtx"), or take it from the cache.

    The cache (default `~/.cache/patch-compile/plugin`, or under XDG_CACHE_HOME) is keyed by the content of sources and
    headers, the compilers, `archs`, backend and flags. `force` compiles anew. Several processes may call this at once.
    Raises PatchCompileError when nvcc, the C++ compiler or the headers are missing or unfit, or nvcc fails.
    """
    _check_request(backend, archs)
    cache = cache_dir or _default_cache()
    cache.mkdir(parents=True, exist_ok=True)
    nvcc, cxx = _find_nvcc(), _find_cxx()
    headers = _find_headers(backend) or _fetch_headers(cache, log)
    fingerprint = _fingerprint(backend, archs, nvcc, cxx, headers)
    library = PluginLibrary(
        cache / fingerprint / LIBRARY_NAME, backend, archs, *nvcc, *headers, fingerprint=fingerprint
    )
    library.path.parent.mkdir(exist_ok=True)
    with _locked(library.path.parent / "lock"):
        if force or not _is_whole(library):
            log(f"compiling the plugin for {backend}, {_sm_names(archs)}, with nvcc {nvcc.version}")
            _compile(library)
    return library


def read_identity(path: Path) -> PluginIdentity:
    """What the plugin library at `path` was built for, read without loading it.

    Raises PatchCompileError when the file is missing or no PatchLinear plugin.
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


def check_backend(path: Path, backend: str) -> PluginIdentity:
    """Refuse, by PatchCompileError, a plugin library that was built for another backend than `backend`."""
    identity = read_identity(path)
    if identity.backend != backend:
        raise PatchCompileError(
            f"{path} was built for {identity.backend}, and this run uses {backend}",
            "The plugin registers itself with one of the two libraries only.",
            f"Build it with `patch-compile plugin --backend {backend}`.",
        )
    return identity


def describe_toolchain(backend: str = "tensorrt-rtx") -> list[ToolchainItem]:
    """What building the plugin needs and what this machine has of it; downloads nothing."""
    return [
        _describe("nvcc", _find_nvcc, _NVCC_FIX),
        _describe("C++ compiler", _find_cxx, _CXX_FIX),
        _describe("TensorRT headers", partial(_headers_or_package, backend), _HEADERS_FIX),
        _describe(
            "plugin sources", lambda: _Tool(_sources(), "of this package"), "Install patch-compile again."
        ),
    ]


def _describe(what: str, find: Callable[[], _Tool], fix: str) -> ToolchainItem:
    try:
        tool = find()
    except PatchCompileError as error:
        return ToolchainItem(what, False, error.why, error.fix or fix)
    return ToolchainItem(what, True, f"{tool.path} ({tool.version})", "")


def _check_request(backend: str, archs: tuple[int, ...]) -> None:
    if backend not in BACKENDS:
        raise ValueError(f"backend {backend!r} is none of {BACKENDS}")
    if not archs or min(archs) < 80:
        raise PatchCompileError(
            f"no plugin for {_sm_names(archs) or 'no architecture'}",
            "2:4 sparsity needs the tensor cores of Ampere (sm_80) or newer.",
            "Choose architectures from 80, 86, 89, 90.",
        )


def _sm_names(archs: tuple[int, ...]) -> str:
    return " ".join(f"sm_{arch}" for arch in archs)


def _default_cache() -> Path:
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "patch-compile" / "plugin"


def _sources() -> Path:
    """`patch_compile/_plugins` of an installed wheel, `plugins` beside the package in a checkout."""
    here = Path(__file__).resolve().parent
    for folder in (here / "_plugins", here.parent / "plugins"):
        if (folder / "kernels" / "patch_linear.cuh").is_file():
            return folder
    raise PatchCompileError(
        "The plugin's sources are missing", f"They are not beside {here}.", "Install patch-compile again."
    )


# --- finding the tools ---


def _nvcc_candidates() -> Iterator[Path]:
    on_path = shutil.which("nvcc")
    if on_path:
        yield Path(on_path)
    for variable in ("CUDA_HOME", "CUDA_PATH"):
        if os.environ.get(variable):
            yield Path(os.environ[variable]) / "bin" / "nvcc"
    yield Path("/usr/local/cuda/bin/nvcc")
    for folder in (sysconfig.get_path("purelib"), sysconfig.get_path("platlib"), *sys.path):
        yield (
            Path(folder or ".") / "nvidia" / "cu13" / "bin" / "nvcc"
        )  # where the nvidia-cuda-nvcc wheels put it


def _find_nvcc() -> _Tool:
    """CUDACXX when set, else the first nvcc on this machine that is new enough."""
    named = os.environ.get("CUDACXX")
    candidates = [Path(shutil.which(named) or named)] if named else list(_nvcc_candidates())
    too_old = []
    for path in dict.fromkeys(c for c in candidates if c.is_file() and os.access(c, os.X_OK)):
        version = _nvcc_version(path)
        if tuple(map(int, version.split(".")[:2])) >= _MIN_NVCC:
            return _Tool(path, version)
        too_old.append(f"{path} is {version}")
    if too_old:
        why = f"{'; '.join(too_old)}; mma.sp::ordered_metadata needs 12.5 or newer."
        raise PatchCompileError("nvcc is too old", why, _NVCC_FIX)
    why = (
        f"CUDACXX is {named}, which can't be run."
        if named
        else "It is neither on PATH nor where CUDA puts it."
    )
    raise PatchCompileError("nvcc is not found", why, _NVCC_FIX)


def _nvcc_version(path: Path) -> str:
    match = re.search(r"release \d+\.\d+, V([\d.]+)", _output([str(path), "--version"]))
    if match is None:
        raise PatchCompileError(f"{path} is no nvcc", "`--version` does not name a CUDA release.", _NVCC_FIX)
    return match[1]


def _find_cxx() -> _Tool:
    named = os.environ.get("NVCC_CCBIN")
    path = shutil.which(named or "g++")
    if path is None:
        raise PatchCompileError(
            f"{named or 'g++'} is not found", "nvcc compiles host code with it.", _CXX_FIX
        )
    return _Tool(Path(path), _output([path, "-dumpfullversion", "-dumpversion"]).strip())


def _output(command: list[str]) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        raise PatchCompileError(f"{command[0]} does not run", str(error), _NVCC_FIX) from error


# --- headers ---


def _header_folders() -> Iterator[Path]:
    for system in ("/usr/include", "/usr/local/include"):
        yield Path(system)
        yield Path(system) / f"{os.uname().machine}-linux-gnu"
    yield Path("/usr/local/tensorrt/include")


def _header_version(folder: Path) -> tuple[str, str] | None:
    """(backend, version) of the headers in a folder, None when there are none or they know no IPluginV3."""
    version_header = folder / "NvInferVersion.h"
    if not version_header.is_file() or not (folder / "NvInferRuntime.h").is_file():
        return None
    macros = dict(re.findall(r"^#define\s+(\w+)\s+(\w+)", version_header.read_text(errors="replace"), re.M))
    raw = [macros.get(f"NV_TENSORRT_{part}", "0") for part in ("MAJOR", "MINOR", "PATCH")]
    numbers = [int(macros.get(value, value)) for value in raw]
    backend = "tensorrt-rtx" if "TRT_MAJOR_RTX" in macros else "tensorrt"
    if backend == "tensorrt" and tuple(numbers) < _MIN_HEADERS:
        return None
    return backend, ".".join(map(str, numbers))


def _find_headers(backend: str) -> _Tool | None:
    """Installed headers fit for `backend`. RTX plugins also compile with full TensorRT's, not the other way round."""
    root = os.environ.get("TENSORRT_ROOT")
    machine = f"{os.uname().machine}-linux-gnu"
    folders = [Path(root) / "include", Path(root) / "include" / machine] if root else list(_header_folders())
    for folder in folders:
        found = _header_version(folder)
        if found and (found[0] == backend or backend == "tensorrt-rtx"):
            return _Tool(folder, found[1])
    if root:
        why = f"TENSORRT_ROOT is {root}; its include folder holds no headers of {backend} 10.0 or newer."
        raise PatchCompileError("TensorRT's headers are not found", why, "Correct TENSORRT_ROOT or unset it.")
    return None


def _headers_or_package(backend: str) -> _Tool:
    return _find_headers(backend) or _Tool(Path(_HEADER_PACKAGE), "10.14, fetched when the plugin is built")


def _fetch_headers(cache: Path, log: Log) -> _Tool:
    """The headers of the pinned package, from the cache or by pip; only its include folder is kept."""
    folder = cache / f"headers-{_HEADER_SHA256[:16]}"
    if not folder.is_dir():
        log(f"fetching TensorRT's headers: {_HEADER_PACKAGE}")
        with tempfile.TemporaryDirectory(dir=cache) as tmp:
            fresh = Path(tmp) / "include"
            _extract_headers(_download(Path(tmp)), fresh)
            try:
                fresh.rename(folder)
            except OSError:  # another process was faster
                if not folder.is_dir():
                    raise
    found = _header_version(folder)
    if found is None:
        raise PatchCompileError(f"{folder} is damaged", "NvInferRuntime.h is missing.", f"Delete {folder}.")
    return _Tool(folder, found[1])


def _download(folder: Path) -> Path:
    requirement = folder / "requirements.txt"
    requirement.write_text(f"{_HEADER_PACKAGE} --hash=sha256:{_HEADER_SHA256}\n")
    pip = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-input", "--disable-pip-version-check"]
    command = [*pip, "--require-hashes", "-r", str(requirement), "-d", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise PatchCompileError("TensorRT's headers could not be fetched", _tail(done.stderr), _HEADERS_FIX)
    return next(folder.glob("*.whl"))


def _extract_headers(wheel: Path, folder: Path) -> None:
    folder.mkdir()
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            stub = name.endswith("NvInferPlugin.h")  # of the package's own making
            if name.startswith(_HEADER_FOLDER) and name.endswith(".h") and not stub:
                (folder / Path(name).name).write_bytes(archive.read(name))


# --- compiling ---


def _units(sources: Path) -> list[Path]:
    return sorted(
        p for folder in ("kernels", "tensorrt") for p in (sources / folder).glob("*.c*") if p.suffix != ".cuh"
    )


def _code_flags(archs: tuple[int, ...]) -> list[str]:
    """Machine code for every architecture, and PTX of the newest for those to come."""
    flags = [f"-gencode=arch=compute_{a},code=sm_{a}" for a in archs]
    return [*flags, f"-gencode=arch=compute_{max(archs)},code=compute_{max(archs)}"]


def _fingerprint(backend: str, archs: tuple[int, ...], nvcc: _Tool, cxx: _Tool, headers: _Tool) -> str:
    sources = _sources()
    flags = [*_COMPILE_FLAGS, *_LINK_FLAGS, *_code_flags(archs)]
    digest = hashlib.sha256(json.dumps([backend, nvcc.version, cxx.version, flags]).encode())
    for folder in (sources / "kernels", sources / "tensorrt", headers.path):
        pattern = "NvInfer*.h" if folder == headers.path else "*"
        for file in sorted(p for p in folder.glob(pattern) if p.is_file()):
            digest.update(f"\0{file.name}\0".encode() + file.read_bytes())
    return digest.hexdigest()[:24]


def _compile(library: PluginLibrary) -> None:
    sources = _sources()
    code = _code_flags(library.archs)
    flags = [
        *_COMPILE_FLAGS,
        f"-DPATCH_BACKEND={library.backend}",
        "-I",
        str(sources),
        "-isystem",
        str(library.headers),
    ]
    with tempfile.TemporaryDirectory(dir=library.path.parent) as tmp:

        def compile_unit(unit: Path) -> str:
            out = str(Path(tmp) / f"{unit.name}.o")
            _nvcc(library.nvcc, [*flags, *code, "-c", str(unit), "-o", out], unit.name)
            return out

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            objects = list(pool.map(compile_unit, sorted(_units(sources), key=lambda u: u.suffix != ".cu")))
        fresh = Path(tmp) / LIBRARY_NAME
        _nvcc(library.nvcc, [*code, *_LINK_FLAGS, *objects, "-o", str(fresh)], LIBRARY_NAME)
        check_backend(fresh, library.backend)
        fresh.replace(library.path)


def _nvcc(nvcc: Path, arguments: list[str], what: str) -> None:
    done = subprocess.run([str(nvcc), *arguments], capture_output=True, text=True)
    if done.returncode:
        fix = "If nvcc refuses the C++ compiler, set NVCC_CCBIN to an older one."
        raise PatchCompileError(f"nvcc could not build {what}", _tail(done.stderr or done.stdout), fix)


def _tail(text: str, lines: int = 12) -> str:
    return "\n".join(text.strip().splitlines()[-lines:])


def _is_whole(library: PluginLibrary) -> bool:
    try:
        identity = read_identity(library.path)
    except PatchCompileError:
        return False
    return identity.backend == library.backend and set(identity.archs) == set(library.archs)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """One process compiles, the others wait and then find the result."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
