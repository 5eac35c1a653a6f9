"""Lets `dlopen` find a loaded library by its unversioned name, inside this process.

TensorRT-RTX's ONNX parser dlopens `libtensorrt_rtx.so` when it meets a plugin. The wheel ships only
`libtensorrt_rtx.so.1`, so the dlopen fails and aborts the process (RTX 1.7.1). The dynamic loader answers a dlopen by
name with a loaded object of that SONAME. This module therefore writes and loads a library without code that has the
missing name and depends on the versioned library. It writes the ELF bytes itself, which needs no compiler, no
LD_LIBRARY_PATH (read at process start only) and no file in the installed package.
"""

from __future__ import annotations

import ctypes
import platform
import struct
import sys
import tempfile
from pathlib import Path

from patch_compile.errors import PatchCompileError

# ELF-64 constants: System V ABI, chapters 4 and 5.
_MACHINES = {"x86_64": 62, "aarch64": 183}
_SHARED_OBJECT = 3
_PT_LOAD, _PT_DYNAMIC, _PT_GNU_STACK = 1, 2, 0x6474E551
_READ_WRITE = 6
_DT_NULL, _DT_NEEDED, _DT_HASH, _DT_STRTAB = 0, 1, 4, 5
_DT_SYMTAB, _DT_STRSZ, _DT_SYMENT, _DT_SONAME = 6, 10, 11, 14
_HEADER, _PROGRAM_HEADER, _DYNAMIC_ENTRY, _SYMBOL = 64, 56, 16, 24


def answer_to_unversioned_name(unversioned: str) -> None:
    """Make `dlopen(unversioned)` find the loaded library `unversioned`.N.

    Does nothing if the name already resolves. Raises PatchCompileError if it can't be made to resolve.
    """
    if _resolves(unversioned):
        return
    loaded = _loaded_library(unversioned)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / unversioned
        path.write_bytes(name_only_library(unversioned, loaded.name, _machine(loaded)))
        try:
            ctypes.CDLL(str(path), ctypes.RTLD_GLOBAL)
        except OSError as error:
            raise _unmended(unversioned, loaded, str(error)) from None
    if not _resolves(unversioned):
        raise _unmended(unversioned, loaded, "The loader does not answer to the name")


def name_only_library(soname: str, needed: str, machine: int) -> bytes:
    """Returns an ELF shared object without code that has the SONAME `soname` and depends on the library `needed`.

    machine: `e_machine` of the ELF header.
    """
    strings = b"\0" + soname.encode() + b"\0" + needed.encode() + b"\0"
    dynamic_at = _HEADER + 3 * _PROGRAM_HEADER
    symbols_at = dynamic_at + 8 * _DYNAMIC_ENTRY
    hash_at = symbols_at + _SYMBOL
    strings_at = hash_at + 16
    size = strings_at + len(strings)
    dynamic = [
        (_DT_NEEDED, len(soname) + 2),
        (_DT_SONAME, 1),
        (_DT_HASH, hash_at),
        (_DT_STRTAB, strings_at),
        (_DT_SYMTAB, symbols_at),
        (_DT_STRSZ, len(strings)),
        (_DT_SYMENT, _SYMBOL),
        (_DT_NULL, 0),
    ]
    parts = (
        _elf_header(machine),
        _segment(_PT_LOAD, 0, size, 0x10000),  # 64 KiB: the largest page size of the two machines
        _segment(_PT_DYNAMIC, dynamic_at, 8 * _DYNAMIC_ENTRY, 8),
        _segment(_PT_GNU_STACK, 0, 0, 16),  # without it the loader would ask for an executable stack
        b"".join(struct.pack("<QQ", *entry) for entry in dynamic),
        bytes(_SYMBOL),
        struct.pack("<IIII", 1, 1, 0, 0),  # one bucket, one null symbol
        strings,
    )
    return b"".join(parts)


def _elf_header(machine: int) -> bytes:
    ident = b"\x7fELF" + bytes([2, 1, 1]) + bytes(9)
    fields = (_SHARED_OBJECT, machine, 1, 0, _HEADER, 0, 0, _HEADER, _PROGRAM_HEADER, 3, 0, 0, 0)
    return ident + struct.pack("<HHIQQQIHHHHHH", *fields)


def _segment(kind: int, offset: int, size: int, alignment: int) -> bytes:
    return struct.pack("<IIQQQQQQ", kind, _READ_WRITE, offset, offset, offset, size, size, alignment)


def _resolves(name: str) -> bool:
    try:
        return hasattr(ctypes.CDLL(name), "getPluginRegistry")
    except OSError:
        return False


def _loaded_library(unversioned: str) -> Path:
    """Returns the file `unversioned`.N that this process has loaded."""
    maps = Path("/proc/self/maps")
    if sys.platform == "linux":
        for line in maps.read_text().splitlines():
            path = Path(line.split(maxsplit=5)[-1])
            if path.name.startswith(f"{unversioned}."):
                return path
    raise PatchCompileError(
        f"{unversioned} is not loaded",
        "A plugin can only be parsed when the library answers to this name.",
        "Import the backend first; on a system other than Linux put the library's folder on the search path.",
    )


def _machine(loaded: Path) -> int:
    machine = _MACHINES.get(platform.machine())
    if machine is None:
        raise _unmended(loaded.name, loaded, f"There is no rule for {platform.machine()}")
    return machine


def _unmended(unversioned: str, loaded: Path, why: str) -> PatchCompileError:
    return PatchCompileError(
        f"{unversioned} can't be found by its unversioned name",
        f"{why}; the ONNX parser would abort at the first plugin.",
        f"Link it: `ln -s {loaded.name} {loaded.parent / unversioned}`.",
    )
