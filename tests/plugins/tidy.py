"""Runs clang-tidy over the C++ of the plugin, in parallel: `python -m tests.plugins.tidy`.

clang's own warnings (-Wall -Wextra) count too: nvcc compiles the same files with g++. A file is left out if neither it nor a
header has changed since it was clean. The kernels are read as the host builds them: one configuration of each kind, since
configurations of a kind differ only in their sizes.
Exit code 1, and the findings, if there are any.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from patch_compile.cache_folder import cache_folder
from patch_compile.errors import PatchCompileError
from patch_compile.planning.roofline.schedule import CONFIGS
from patch_compile.plugin.toolchain import fetch_headers, find_headers, find_nvcc

ROOT = Path(__file__).parents[2]
PLUGINS = ROOT / "plugins"
CLEAN = ROOT / ".cache" / "tidy"
# The largest first, so that the cores end together.
UNITS = (
    *(PLUGINS / name for name in ("tensorrt/patch_linear_plugin.cpp", "host/driver.cpp", "host/launches_on_host.cpp")),
    *(PLUGINS / name for name in ("host/plugin_driver.cpp", "host/cuda_on_host.cpp")),
    *sorted(PLUGINS.glob("dense_path/*.cpp")),
    *sorted(file for file in PLUGINS.glob("tensorrt/*.cpp") if file.name != "patch_linear_plugin.cpp"),
    PLUGINS / "kernels/launch.cpp",
)  # fmt: skip
_KINDS = [(one.streams, one.kinds, one.weights) for one in CONFIGS]
_CONFIGS = sum(1 << _KINDS.index(kind) for kind in {*_KINDS})
_HOST = ["-DPATCH_HOST_EMULATION", f"-DPATCH_HOST_CONFIGS={_CONFIGS}"]


def main() -> int:
    tidy = shutil.which("clang-tidy", path=sysconfig.get_path("scripts")) or shutil.which("clang-tidy")
    try:
        includes = [cuda_headers(), _tensorrt_headers()]
    except PatchCompileError as error:
        print(f"clang-tidy was left out: {error}", file=sys.stderr)
        return 0
    if tidy is None:
        print("clang-tidy was left out: it is not installed", file=sys.stderr)
        return 0
    common = hashlib.sha256((ROOT / ".clang-tidy").read_bytes() + Path(tidy).read_bytes()[:1024])
    common.update(subprocess.run([tidy, "--version"], capture_output=True, check=True).stdout)
    common.update(str(_HOST).encode())
    for header in sorted(file for file in PLUGINS.glob("*/*") if file.suffix in (".h", ".cuh")):
        common.update(header.name.encode() + header.read_bytes())
    CLEAN.mkdir(parents=True, exist_ok=True)

    def check(unit: Path) -> str:
        digest = common.copy()
        digest.update(unit.read_bytes())
        mark = CLEAN / f"{unit.stem}-{digest.hexdigest()[:20]}"
        if mark.exists():
            return ""
        command = [
            tidy,
            "--quiet",
            str(unit),
            "--",
            "-std=c++17",
            "-Wall",
            "-Wextra",
            "-DPATCH_BACKEND=tensorrt",
            "-I",
            str(PLUGINS),
        ]
        command += _HOST * (unit.parent.name == "host")
        command += [flag for folder in includes for flag in ("-isystem", str(folder))]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            return done.stdout or done.stderr
        mark.touch()
        return ""

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        found = [said for said in pool.map(check, UNITS) if said]
    print(*found, sep="\n", end="")
    return 1 if found else 0


def cuda_headers() -> Path:
    """Returns the folder of CUDA's headers that nvcc uses."""
    nvcc = find_nvcc().path
    said = subprocess.run(
        [nvcc, "--dryrun", "-c", "-x", "c++", os.devnull, "-o", os.devnull], capture_output=True, text=True
    )
    for folder in re.findall(r'-I([^"\s]+)', said.stderr):
        if (Path(folder) / "cuda_runtime_api.h").is_file():
            return Path(folder)
    raise PatchCompileError(
        "CUDA's headers are not found", f"{nvcc} names no folder with cuda_runtime_api.h."
    )


def _tensorrt_headers() -> Path:
    found = find_headers("tensorrt") or fetch_headers(cache_folder("plugin"), lambda said: None)
    return found.path


if __name__ == "__main__":
    sys.exit(main())
