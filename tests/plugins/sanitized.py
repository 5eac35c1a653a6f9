"""Programs built with AddressSanitizer and UBSan, which end at the first fault with exit code other than 0."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from patch_compile.plugin.toolchain import find_nvcc
from tests.plugins.compiled import compiled, tensorrt_headers
from tests.plugins.dense_plugin import driver_sources
from tests.plugins.host_kernel import PLUGINS

# bounds-strict: GCC else takes the last array of a struct, such as TensorRT's Dims, for one of any length.
SANITIZERS = (
    "-fsanitize=address",
    "-fsanitize=undefined",
    "-fsanitize=bounds-strict",
    "-fno-sanitize-recover=all",
)
_HERE = Path(__file__).resolve().parent


def compile_plugin_attack(cache: Path, plugins: Path = PLUGINS, opt: str = "-O1") -> Path:
    """Compile `attack_plugin.cpp` with the plugin's host code, or take it from `cache`.

    Raises PatchCompileError without nvcc or TensorRT's headers.
    """
    nvcc = find_nvcc()
    host = ",".join((*SANITIZERS, "-fno-omit-frame-pointer", "-g1", "-Wall", "-Wextra", "-Werror"))
    flags = ["-std=c++17", opt, "-cudart=none", f"-Xcompiler={host}"]
    flags += ["-DPATCH_HOST_EMULATION", "-DPATCH_BACKEND=tensorrt"]
    flags += ["-I", str(plugins), "-isystem", str(tensorrt_headers())]
    sources = [_HERE / "attack_plugin.cpp", plugins / "tensorrt" / "patch_linear_creator.cpp"]
    sources += driver_sources(plugins)
    folders = ("kernels", "host", "dense_path", "tensorrt")
    read = [sources[0], *(file for folder in folders for file in plugins.glob(f"{folder}/*"))]
    return compiled(cache, [str(nvcc.path), *flags, *map(str, sources)], nvcc.version, read, "plugin-attack")


def attack_plugin(program: Path, seed: int, cases: int) -> tuple[str, str]:
    """Return what the attack printed, and the fault that ended it; empty if there was none."""
    environment = os.environ | {"UBSAN_OPTIONS": "print_stacktrace=1", "ASAN_OPTIONS": "detect_leaks=1"}
    command = [str(program), str(seed), str(cases)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    return done.stdout.strip(), "" if done.returncode == 0 else done.stderr or f"exit code {done.returncode}"
