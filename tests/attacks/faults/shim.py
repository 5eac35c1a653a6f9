"""Compiles `shim.c`, which makes file operations fail, and arms it in a process that was started with it."""

from __future__ import annotations

import ctypes
import hashlib
import os
import shutil
import signal
import subprocess
from enum import IntEnum
from pathlib import Path

__all__ = ["COMPILER", "Fault", "arm", "compiled"]

COMPILER = shutil.which(os.environ.get("CC", "cc")) or shutil.which("gcc") or shutil.which("clang")
_SOURCE = Path(__file__).with_name("shim.c")
_FLAGS = ("-shared", "-fPIC", "-O1", "-Wall", "-Wextra", "-Werror")


class Fault(IntEnum):
    """Fault that the shim injects at an operation. The numbers are those of `shim.c`."""

    NONE = 0
    KILL = 1  # SIGKILL before it
    FULL = 2  # ENOSPC: it and every later one that needs room fails
    EIO = 3  # it fails, later ones do not
    TORN = 4  # half of its bytes are written, then SIGKILL
    POWER = 5  # SIGKILL before it, and files lose half of their bytes if these were not flushed
    EIO_READ = 6  # it is the nth one that reads, and fails
    INTERRUPT = 7  # SIGINT, as from Ctrl-C, before it
    TERMINATE = 8  # SIGTERM
    HANG_UP = 9  # SIGHUP

    @property
    def exit_codes(self) -> tuple[int, ...]:
        """Exit codes with which a run may end; negative ones are signals."""
        return _EXIT_CODES.get(self, (0, 1))


_EXIT_CODES = {
    Fault.KILL: (-signal.SIGKILL,),
    Fault.TORN: (-signal.SIGKILL,),
    Fault.POWER: (-signal.SIGKILL,),
    Fault.INTERRUPT: (0, 130),  # 0: the run was already at its end
    Fault.TERMINATE: (-signal.SIGTERM,),
    Fault.HANG_UP: (-signal.SIGHUP,),
}


def compiled(folder: Path) -> Path:
    """Returns the library, which is compiled into `folder` unless it is there."""
    assert COMPILER is not None
    library = folder / f"shim-{hashlib.sha256(_SOURCE.read_bytes()).hexdigest()[:16]}.so"
    if not library.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        part = library.with_suffix(f".{os.getpid()}")
        subprocess.run([COMPILER, *_FLAGS, "-o", str(part), str(_SOURCE), "-ldl", "-lpthread"], check=True)
        part.rename(library)
    return library


def arm(folders: list[Path], fault: Fault, at: int, log: int) -> None:
    """Count the operations below `folders` from now on, and make number `at` fail. log: descriptor of an open file."""
    library = ctypes.CDLL(None)
    library.faults_arm(
        ":".join(map(str, folders)).encode(), ctypes.c_int(fault), ctypes.c_long(at), ctypes.c_int(log)
    )
