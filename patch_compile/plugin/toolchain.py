"""Finds the tools and headers that building the plugin needs, or says how to get them.

The kernels' benchmarks find nvcc with this module too, on machines with only nvcc, PyTorch and numpy. It therefore imports
only the standard library and modules that do the same.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from masklearn.base.durable import flush_tree
from patch_compile.errors import PatchCompileError
from patch_compile.plugin.targets import ptx_arch, this_machine, virtual_arch
from patch_compile.python_process import run_pip

_MIN_NVCC = (12, 8)  # the first that compiles for sm_120; mma.sp::ordered_metadata came with 12.5
_MIN_HEADERS = (10, 0)  # the first with IPluginV3
# This package is not published by NVIDIA. Its headers are NVIDIA's, under Apache-2.0, and the hash pins them.
HEADER_PACKAGE = "kernel-lens==2.0.1"
HEADER_SHA256 = "07cc714e8b5e7f34b672f7c7fad93febe7c747be5837ba276b1527370134ffe0"
_HEADER_FOLDER = "kernel_lens/include/tensorrt/"
_NVCC_FIX = (
    "Install a CUDA toolkit (12.8 or newer) or `pip install 'patch-compile[nvcc]'`, "
    "or set CUDACXX to the path of nvcc."
)
_HEADERS_FIX = "Set TENSORRT_ROOT to a TensorRT installation (a folder that holds include/NvInferRuntime.h)."
_CXX_FIX = "Install g++, or set NVCC_CCBIN to the C++ compiler nvcc shall use."

Log = Callable[[str], None]


class ToolchainItem(NamedTuple):
    """A tool that building the plugin needs.

    where: its path and version, or the reason why it was not found; fix: how to get it, empty if it was found.
    """

    what: str
    found: bool
    where: str
    fix: str


class Tool(NamedTuple):
    """A program or a folder of headers, with its version."""

    path: Path
    version: str


def describe_toolchain(backend: str = "tensorrt-rtx") -> list[ToolchainItem]:
    """Returns everything that building the plugin needs, with its place on this machine. It downloads nothing."""
    return [
        _describe("nvcc", find_nvcc, _NVCC_FIX),
        _describe("C++ compiler", find_cxx, _CXX_FIX),
        _describe("TensorRT headers", partial(_headers_or_package, backend), _HEADERS_FIX),
        _describe(
            "plugin sources",
            lambda: Tool(plugin_sources(), "of this package"),
            "Install patch-compile again.",
        ),
    ]


def _describe(what: str, find: Callable[[], Tool], fix: str) -> ToolchainItem:
    try:
        tool = find()
    except PatchCompileError as error:
        return ToolchainItem(what, False, error.why, error.fix or fix)
    return ToolchainItem(what, True, f"{tool.path} ({tool.version})", "")


def code_flags(archs: tuple[int, ...]) -> list[str]:
    """Returns nvcc's flags for the machine code of the plugin, and for the oldest architecture's PTX, which other GPUs
    run."""
    flags = [f"-gencode=arch=compute_{virtual_arch(a, archs)},code=sm_{a}" for a in archs]
    ptx = ptx_arch(archs)
    return [*flags, f"-gencode=arch=compute_{ptx},code=compute_{ptx}"]


def plugin_sources() -> Path:
    """Returns the folder of the plugin's sources: `patch_compile/_plugins` in a wheel, `plugins` in a checkout.

    Raises PatchCompileError if it is missing.
    """
    package = Path(__file__).resolve().parents[1]
    for folder in (package / "_plugins", package.parent / "plugins"):
        if (folder / "kernels" / "slabs.cuh").is_file():
            return folder
    raise PatchCompileError(
        "The plugin's sources are missing", f"They are not next to {package}.", "Install patch-compile again."
    )


def cuda_folders() -> Iterator[Path]:
    """Yield folders that may contain CUDA's programs: those on PATH, a toolkit's, and the folder of the nvidia-cuda-*
    wheels."""
    yield from map(Path, filter(None, os.environ.get("PATH", "").split(os.pathsep)))
    for variable in ("CUDA_HOME", "CUDA_PATH"):
        if os.environ.get(variable):
            yield Path(os.environ[variable]) / "bin"
    yield Path("/usr/local/cuda/bin")
    for folder in (
        sysconfig.get_path("purelib"),
        sysconfig.get_path("platlib"),
        *filter(os.path.isabs, sys.path),
    ):
        yield Path(folder) / "nvidia" / "cu13" / "bin"


def find_nvcc() -> Tool:
    """Returns the nvcc of CUDACXX if it is set, else the first nvcc on this machine that is new enough.

    Raises PatchCompileError if there is none.
    """
    named = os.environ.get("CUDACXX")
    paths = [Path(shutil.which(named) or named)] if named else [f / "nvcc" for f in cuda_folders()]
    candidates = [path.absolute() for path in paths]
    too_old = []
    for path in dict.fromkeys(c for c in candidates if c.is_file() and os.access(c, os.X_OK)):
        version = _nvcc_version(path)
        if tuple(map(int, version.split(".")[:2])) >= _MIN_NVCC:
            return Tool(path, version)
        too_old.append(f"{path} is {version}")
    if too_old:
        why = f"{'; '.join(too_old)}; sm_120 needs 12.8 or newer."
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
        raise PatchCompileError(f"{path} is not nvcc", "`--version` does not name a CUDA release.", _NVCC_FIX)
    return match[1]


def find_cxx() -> Tool:
    """Returns the C++ compiler of NVCC_CCBIN if it is set, else g++. Raises PatchCompileError if it is missing."""
    named = os.environ.get("NVCC_CCBIN") or "g++"
    path = shutil.which(named)
    if path is None:
        raise PatchCompileError(f"{named} is not found", "nvcc compiles host code with it.", _CXX_FIX)
    tool = Path(path).absolute()
    return Tool(tool, _output([str(tool), "-dumpfullversion", "-dumpversion"]).strip())


def run_tool(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """Run nvcc or a C++ compiler in an empty folder until it ends. Its output is captured. Its paths must be absolute.

    The programs that nvcc starts load libraries of the current folder, such as ./libz.so.1, and include headers of it.
    """
    with tempfile.TemporaryDirectory() as empty:
        return subprocess.run(command, capture_output=True, text=True, cwd=empty)


def _output(command: list[str]) -> str:
    try:
        done = run_tool(command)
        done.check_returncode()
    except (OSError, subprocess.CalledProcessError) as error:
        raise PatchCompileError(f"{command[0]} does not run", str(error), _NVCC_FIX) from error
    return done.stdout


def _header_folders() -> Iterator[Path]:
    for system in ("/usr/include", "/usr/local/include"):
        yield Path(system)
        yield Path(system) / f"{this_machine()}-linux-gnu"
    yield Path("/usr/local/tensorrt/include")


def _header_version(folder: Path) -> tuple[str, str] | None:
    """Returns (backend, version) of the headers in a folder, or None if there are none or they have no IPluginV3."""
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


def find_headers(backend: str) -> Tool | None:
    """Returns installed headers for `backend`, or None. Plugins of TensorRT-RTX also compile with TensorRT's headers.

    Raises PatchCompileError if TENSORRT_ROOT is set but has no suitable headers.
    """
    root = os.environ.get("TENSORRT_ROOT")
    own = Path(root or "") / "include"
    folders = [own, own / f"{this_machine()}-linux-gnu"] if root else list(_header_folders())
    for folder in folders:
        version = _header_version(folder)
        if version and (version[0] == backend or backend == "tensorrt-rtx"):
            return Tool(folder.absolute(), version[1])
    if root:
        why = f"TENSORRT_ROOT is {root}; its include folder holds no headers of {backend} 10.0 or newer."
        raise PatchCompileError("TensorRT's headers are not found", why, "Correct TENSORRT_ROOT or unset it.")
    return None


def _headers_or_package(backend: str) -> Tool:
    return find_headers(backend) or Tool(
        Path(HEADER_PACKAGE), "10.14, a package of a third party, fetched when the plugin is built"
    )


def fetch_headers(cache: Path, log: Log) -> Tool:
    """Returns the headers of the pinned package, from the cache or downloaded by pip. The cache keeps only the headers.

    Raises PatchCompileError if the download fails or the cached headers are damaged.
    """
    folder = cache / f"headers-{HEADER_SHA256[:16]}"
    if not folder.is_dir():
        cache.mkdir(parents=True, exist_ok=True)
        log(f"fetching TensorRT's headers: {HEADER_PACKAGE}")
        with tempfile.TemporaryDirectory(dir=cache) as tmp:
            fresh = Path(tmp) / "include"
            _extract_headers(_download_headers(Path(tmp)), fresh)
            flush_tree(fresh)
            try:
                fresh.rename(folder)
            except OSError:  # another process was faster
                if not folder.is_dir():
                    raise
    version = _header_version(folder)
    if version is None:
        raise PatchCompileError(f"{folder} is damaged", "NvInferRuntime.h is missing.", f"Delete {folder}.")
    return Tool(folder, version[1])


def _download_headers(folder: Path) -> Path:
    """Let pip download the wheel with the headers into an empty folder. Returns its path."""
    (folder / "requirements.txt").write_text(f"{HEADER_PACKAGE} --hash=sha256:{HEADER_SHA256}\n")
    quiet = ("--no-input", "--disable-pip-version-check")
    done = run_pip(folder, "download", "--no-deps", *quiet, "--require-hashes", "-r", "requirements.txt")
    if done.returncode:
        raise PatchCompileError(
            "TensorRT's headers could not be fetched", last_lines(done.stderr), _HEADERS_FIX
        )
    (wheel,) = folder.glob("*.whl")
    return wheel


def _extract_headers(wheel: Path, folder: Path) -> None:
    folder.mkdir()
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            stub = name.endswith("NvInferPlugin.h")  # written by the package's author, not NVIDIA
            if name.startswith(_HEADER_FOLDER) and name.endswith(".h") and not stub:
                (folder / Path(name).name).write_bytes(archive.read(name))


def last_lines(text: str, lines: int = 12) -> str:
    return "\n".join(text.strip().splitlines()[-lines:])
