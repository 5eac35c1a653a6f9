"""Reads the identity of a compiled plugin without loading it."""

from __future__ import annotations

import mmap
import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from patch_compile.errors import PatchCompileError
from patch_compile.plugin.kernels import parse_kernels, spell_kernels
from patch_compile.plugin.targets import this_machine

_IDENTITY = re.compile(
    rb"patch-linear-plugin version=(\d{1,9}) backend=([a-z-]{1,32}) cuda=([\d.]{1,32}) "
    rb"archs=(\d{2,4}(?:,\d{2,4}){0,31}) headers=([\d.]{1,32})"
    rb" machine=([a-z\d_]{1,32}) kernels=([a-z\d_+]{1,128})\0"
)


@dataclass(frozen=True)
class PluginIdentity:
    """Identity that a plugin library contains as text.

    version: of the plugin; backend: library that the plugin registers with; cuda: version of nvcc; archs: compute
    capabilities times ten; headers: version of TensorRT's headers; machine: kind of machine that loads the library, as
    `uname -m` names it; kernels: groups of kernels, see `plugin.kernels`.
    """

    version: int
    backend: str
    cuda: str
    archs: tuple[int, ...]
    headers: str
    machine: str
    kernels: tuple[str, ...]


def read_identity(path: Path) -> PluginIdentity:
    """Read the identity of the plugin library at `path` without loading it.

    Raises PatchCompileError if the file is missing or is not a PatchLinear plugin.
    """
    fix = "Build it with `patch-compile plugin`."
    if not path.is_file() or path.stat().st_size == 0:
        raise PatchCompileError(
            f"{path} is not a plugin library", "There is no such file, or it is empty.", fix
        )
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        match = _IDENTITY.search(content)
        if match is None:
            raise PatchCompileError(
                f"{path} is not a PatchLinear plugin", "Its identity string is missing.", fix
            )
        version, backend, cuda, archs, headers, machine, kernels = (
            group.decode() for group in match.groups()
        )
    arch_list = tuple(int(arch) // 10 for arch in archs.split(","))
    return PluginIdentity(int(version), backend, cuda, arch_list, headers, machine, parse_kernels(kernels))


def identity_in(path: Path) -> PluginIdentity | None:
    """Returns the identity in a file, such as an engine that carries its plugin, or None."""
    try:
        return read_identity(path)
    except PatchCompileError:
        return None


def check_backend(path: Path, backend: str) -> PluginIdentity:
    """Returns the identity of a plugin library that this machine can load.

    Raises PatchCompileError if it was built for another backend or for another machine.
    """
    identity = read_identity(path)
    if identity.backend != backend:
        raise PatchCompileError(
            f"{path} was built for {identity.backend}, and this run uses {backend}",
            "The plugin registers itself with one of the two libraries only.",
            f"Build it with `patch-compile plugin --backend {backend}`.",
        )
    if identity.machine != this_machine():
        raise PatchCompileError(
            f"{path} was built for {identity.machine}, and this machine is {this_machine()}",
            "A library holds the machine code of one kind of processor.",
            f"Build it here with `patch-compile plugin --backend {backend}`.",
        )
    return identity


def check_kernels(path: Path, kernels: Collection[str]) -> None:
    """Raise PatchCompileError if a plugin library was compiled without some of these groups of kernels."""
    there = read_identity(path).kernels
    if missing := {*kernels} - {*there}:
        raise PatchCompileError(
            f"{path} lacks kernels that this engine runs: {spell_kernels(missing)}",
            f"It was compiled for a build that runs other kernels: {spell_kernels(there)}.",
            "Build a plugin with all kernels, which is then taken: `patch-compile plugin`.",
        )
