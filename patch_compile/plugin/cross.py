"""Lets nvcc compile for a machine of another kind: with a C++ compiler and a CUDA runtime for that machine.

The compiler is a package of the distribution (Debian: g++-aarch64-linux-gnu). The CUDA runtime comes from a CUDA toolkit
that has a runtime for that machine, else from NVIDIA's wheel, pinned by its hash. CUDA's headers are the same for all
machines.
"""

from __future__ import annotations

import os
import re
import tempfile
import zipfile
from pathlib import Path
from typing import NamedTuple

from masklearn.base.durable import flush_tree
from patch_compile.errors import PatchCompileError
from patch_compile.plugin.targets import AARCH64, X86, this_machine
from patch_compile.plugin.toolchain import Log, Tool, download, run_tool

_TARGETS = {AARCH64: "sbsa-linux", X86: "x86_64-linux"}  # folders in a toolkit's `targets`
_WHEELS = {  # by nvcc's release and the machine
    ("13.0", AARCH64): "nvidia-cuda-runtime==13.0.96 "
    "--hash=sha256:ef9bcbe90493a2b9d810e43d249adb3d02e98dd30200d86607d8d02687c43f55",
}
_LIBRARIES = ("libcudart_static.a", "libcudadevrt.a")


class Cross(NamedTuple):
    """More flags for nvcc, to compile and to link for a machine; empty for this machine."""

    machine: str
    compiling: tuple[str, ...] = ()
    linking: tuple[str, ...] = ()


def cross_compile(machine: str, nvcc: Tool, cxx: Tool, cache: Path, log: Log) -> Cross:
    """Returns how nvcc compiles for a machine. cxx: C++ compiler for that machine; cache: folder for what is downloaded.

    Raises PatchCompileError if no CUDA runtime for the machine is found.
    """
    if machine == this_machine():
        return Cross(machine)
    top = _toolkit(nvcc)
    installed = top / "targets" / _TARGETS[machine]
    folder = (
        installed if (installed / "lib" / _LIBRARIES[0]).is_file() else _fetched(machine, nvcc, cache, log)
    )
    compiling = ("-ccbin", str(cxx.path), "-isystem", str(top / "include"))
    return Cross(machine, compiling, (*compiling, "-L", str(folder / "lib")))


def _toolkit(nvcc: Tool) -> Path:
    """Returns the folder that nvcc, which may be a script or a link, takes its own files from."""
    command = [str(nvcc.path), "--dryrun", "-x", "cu", "-c", os.devnull, "-o", os.devnull]
    said = run_tool(command).stderr
    top = re.search(r"^#\$ TOP=(.+)$", said, re.M)
    return Path(top[1]).resolve() if top else nvcc.path.resolve().parents[1]


def _fetched(machine: str, nvcc: Tool, cache: Path, log: Log) -> Path:
    release = ".".join(nvcc.version.split(".")[:2])
    pinned = _WHEELS.get((release, machine))
    fix = f"Install CUDA's cross-compilation package, which adds targets/{_TARGETS[machine]} to the toolkit."
    if pinned is None:
        releases = ", ".join(sorted(known for known, which in _WHEELS if which == machine))
        known = f"for CUDA {releases}" if releases else "for no release"
        raise PatchCompileError(
            f"There is no CUDA runtime to compile for {machine}",
            f"nvcc is of CUDA {release}; runtimes for {machine} are pinned {known}.",
            fix,
        )
    folder = cache / f"cuda-{release}-{machine}"
    if not folder.is_dir():
        log(f"fetching the CUDA runtime for {machine}: {pinned.split()[0]}")
        tags = [word for tag in ("2014", "_2_28") for word in ("--platform", f"manylinux{tag}_{machine}")]
        with tempfile.TemporaryDirectory(dir=cache) as tmp:
            options = ("--only-binary=:all:", *tags)
            (wheel,) = download([pinned], Path(tmp), "CUDA's runtime", fix, *options)
            (fresh := Path(tmp) / "cuda" / "lib").mkdir(parents=True)
            with zipfile.ZipFile(wheel) as archive:
                for name in _LIBRARIES:
                    (fresh / name).write_bytes(archive.read(f"nvidia/cu13/lib/{name}"))
            flush_tree(Path(tmp) / "cuda")
            try:
                (Path(tmp) / "cuda").rename(folder)
            except OSError:  # another process was faster
                if not folder.is_dir():
                    raise
    return folder
