"""Runs nvcc: sources of the plugin become objects, and objects a library.

The kernels take almost all of the time and know nothing of TensorRT. Their objects are kept, so that the plugin for the
other backend, or with other host code, is made of the same objects.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from masklearn.base.durable import whole_file
from patch_compile.cache_folder import cache_folder
from patch_compile.errors import PatchCompileError
from patch_compile.file_lock import lock_file
from patch_compile.plugin.targets import X86, this_machine
from patch_compile.plugin.toolchain import Tool, code_flags, last_lines, plugin_sources, run_tool

COMPILE_FLAGS = ("-std=c++17", "-O3", "-DNDEBUG", "-Xcompiler", "-fPIC,-fvisibility=hidden")
KERNELS_FOLDER = "kernels"
"""Folder of the sources that include nothing from the other folders or from TensorRT."""


def plugin_cache() -> Path:
    """Returns the folder of compiled plugins and kernels of this user, which may not exist."""
    return cache_folder("plugin")


def units(folder: Path) -> list[Path]:
    """Returns the files of a folder that are compiled, those for the GPU first: they take longest."""
    return sorted(
        (file for file in folder.glob("*.c*") if file.suffix != ".cuh"), key=lambda u: (u.suffix != ".cu", u)
    )


def kernel_objects(
    cache: Path,
    archs: tuple[int, ...],
    nvcc: Tool,
    cxx: Tool,
    *,
    flags: Sequence[str] = (),
    names: Collection[str] | None = None,
    force: bool = False,
) -> list[Path]:
    """Compile the kernels for `archs`, or take their objects from the cache. Several processes may do so at once.

    cache: folder of the cache; archs: compute capabilities times ten; flags: more flags for nvcc; names: of the sources,
    None for all; force: compile even what the cache has. Returns the objects. Raises PatchCompileError if nvcc fails.
    """
    sources = plugin_sources() / KERNELS_FOLDER
    own = units(sources)
    settings = [nvcc.version, cxx.version, *COMPILE_FLAGS, *flags, *code_flags(archs)]
    if (
        machine := this_machine()
    ) != X86:  # keys for x86-64 are older than the machine in a key, and stay as they were
        settings.append(machine)
    digest = hashlib.sha256(json.dumps(settings).encode())
    for file in sorted(file for file in sources.iterdir() if file.is_file()):
        digest.update(f"\0{file.name}\0".encode() + file.read_bytes())
    folder = cache / f"{KERNELS_FOLDER}-{digest.hexdigest()[:24]}"
    folder.mkdir(parents=True, exist_ok=True)
    asked = own if names is None else [unit for unit in own if unit.name in names]
    objects = [folder / f"{unit.name}.o" for unit in asked]
    with locked(folder / "lock"):
        missing = [unit for unit, out in zip(asked, objects, strict=True) if force or not out.exists()]
        compile_units(missing, folder, archs, nvcc.path, flags)
    return objects


def compile_units(
    sources: Sequence[Path], folder: Path, archs: tuple[int, ...], nvcc: Path, flags: Sequence[str]
) -> list[Path]:
    """Compile files into objects in `folder`, as many at a time as there are cores.

    archs: compute capabilities times ten; flags: more flags for nvcc. Returns the objects. Raises PatchCompileError if nvcc
    fails.
    """

    def compile_unit(unit: Path) -> Path:
        out = folder.absolute() / f"{unit.name}.o"
        about = [*COMPILE_FLAGS, "-I", str(plugin_sources()), *flags, *code_flags(archs)]
        with whole_file(out) as part:
            run_nvcc(nvcc, [*about, "-c", str(unit.absolute()), "-o", str(part)], unit.name)
        return out

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(compile_unit, sources))


def link(
    objects: Sequence[Path], library: Path, archs: tuple[int, ...], nvcc: Path, flags: Sequence[str]
) -> None:
    files = [str(path.absolute()) for path in (*objects, library)]
    run_nvcc(nvcc, [*code_flags(archs), *flags, *files[:-1], "-o", files[-1]], library.name)


def run_nvcc(nvcc: Path, arguments: Sequence[str], what: str) -> None:
    """Run nvcc. what: name of the file that it makes, for the message. Raises PatchCompileError if it fails."""
    done = run_tool([str(nvcc), *arguments])
    if done.returncode:
        fix = "If nvcc refuses the C++ compiler, set NVCC_CCBIN to an older compiler."
        raise PatchCompileError(f"nvcc could not build {what}", last_lines(done.stderr or done.stdout), fix)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Lock a file, so that one process compiles while the others wait for its result."""
    with path.open("w") as file:
        lock_file(file.fileno(), path.parent, fcntl.LOCK_EX)
        yield
