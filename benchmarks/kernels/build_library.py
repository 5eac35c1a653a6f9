"""Builds the library of the kernels: for this machine's GPU, or with the plugin's class for a GPU of another machine.

    python benchmarks/kernels/build_library.py --arch sm_90 -o build/gpu

There, PATCH_BENCH_LIBRARY=build/gpu/libpatch_plugin_driver.so lets run.py, launch_once.py and plugin_on_gpu.py take it. That
machine needs neither nvcc nor the internet. This machine needs nvcc, but no GPU.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parents[2])]

from masklearn.base.durable import whole_file
from patch_compile import PatchCompileError
from patch_compile.plugin.compiling import compile_units, kernel_objects, link, plugin_cache, units
from patch_compile.plugin.toolchain import fetch_headers, find_cxx, find_headers, find_nvcc, plugin_sources

LIBRARY = "PATCH_BENCH_LIBRARY"
"""Environment variable: path of a library that was built beforehand."""
SOURCES = ("tensorrt/patch_linear_plugin.cpp", "tensorrt/context_memory.cpp", "host/plugin_driver.cpp")
"""Sources of the plugin's class and its C interface, besides the folder `dense_path`."""
# They find no TensorRT, and print to stderr.
_LOG = ("tensorrt/log.cpp", "tensorrt/abi.cpp", "tensorrt/library.cpp")
_INTERFACE = Path(__file__).resolve().with_name("library.cpp")


def library_for(arch: str, *, plugin: bool = False) -> Path:
    """Returns the library that LIBRARY names, or the library of these sources, built once and kept next to the plugins.

    arch: of the GPU, such as sm_86; plugin: with the plugin's class. Raises PatchCompileError if there is no such file, or
    as `build_library` does.
    """
    if given := os.environ.get(LIBRARY):
        if not Path(given).is_file():
            fix = f"Build it with `python benchmarks/kernels/build_library.py --arch {arch} -o build/gpu`."
            raise PatchCompileError(f"There is no file {given}", f"{LIBRARY} names it.", fix)
        return Path(given).absolute()
    digest, sources = hashlib.sha256(), plugin_sources()
    for file in sorted(file for file in (*sources.rglob("*.*"), _INTERFACE) if file.is_file()):
        digest.update(f"\0{file.name}\0".encode() + file.read_bytes())
    folder = plugin_cache() / f"bench-{arch}-{digest.hexdigest()[:24]}"
    library = folder / _name(plugin)
    return library if library.exists() else build_library(folder, arch, plugin=plugin)


def fingerprint(library: Path) -> str:
    """Returns the first digits of a SHA-256 over a library: rows of other kernels are not mixed with its rows."""
    return hashlib.sha256(library.read_bytes()).hexdigest()[:12]


def build_library(folder: Path, *archs: str, plugin: bool = False, lines: bool = True) -> Path:
    """Compile the kernels, the dense path and their C interface into `folder`; returns the library.

    archs: such as sm_86; plugin: with the plugin's class and its C interface; lines: with the numbers of source lines, for a
    profiler, which make it several times larger. Objects of the kernels are kept where the plugin's are. Raises
    PatchCompileError without nvcc, or without TensorRT's headers for the plugin.
    """
    nvcc, sms, plugins = find_nvcc(), tuple(int(arch.removeprefix("sm_")) for arch in archs), plugin_sources()
    flags = ("-lineinfo",) if lines else ()

    def compiled(name: str, sources: Sequence[Path], *more: str) -> list[Path]:
        own = folder / name  # the plugin too has a library.cpp
        own.mkdir(parents=True, exist_ok=True)
        return compile_units(sources, own, sms, nvcc.path, (*flags, *more))

    objects = kernel_objects(plugin_cache(), sms, nvcc, find_cxx(), flags=flags)
    objects += compiled("benchmark", [*units(plugins / "dense_path"), _INTERFACE])
    if plugin:
        headers = find_headers("tensorrt") or fetch_headers(plugin_cache(), print)
        sources = [plugins / name for name in (*SOURCES, *_LOG)]
        objects += compiled("plugin", sources, "-DPATCH_BACKEND=tensorrt", "-isystem", str(headers.path))
    library = folder / _name(plugin)
    with whole_file(library) as part:
        link(objects, part, sms, nvcc.path, ("-shared", "-cudart=static", "-ldl"))
    return library


def _name(plugin: bool) -> str:
    return "libpatch_plugin_driver.so" if plugin else "libpatch_bench.so"


def main(argv: Sequence[str] | None = None) -> int:
    """Build, and say how the library is found; returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--arch", required=True, help="of the GPU, such as sm_90")
    parser.add_argument("-o", "--out", type=Path, required=True, help="folder for the library")
    asked = parser.parse_args(argv)
    try:
        library = build_library(asked.out, asked.arch, plugin=True, lines=False)
    except (PatchCompileError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{LIBRARY}={library}  # {library.stat().st_size / (1 << 20):.1f} MiB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
