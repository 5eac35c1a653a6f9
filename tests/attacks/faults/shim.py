"""Compiles `shim.c`, which makes file operations fail, and arms it in a process that was started with it."""

from __future__ import annotations

import ctypes
import hashlib
import os
import shutil
import signal
import subprocess
import sys
from enum import IntEnum
from pathlib import Path

from tests.attacks.attack import BUILD

COMPILER = shutil.which(os.environ.get("CC", "cc")) or shutil.which("gcc") or shutil.which("clang")
_SOURCE = Path(__file__).with_name("shim.c")
_FLAGS = ("-shared", "-fPIC", "-O1", "-Wall", "-Wextra", "-Werror")


class Fault(IntEnum):
    """Fault that the shim injects at an operation: its number in `shim.c`, words for users, and exit codes.

    A run may end with these exit codes; negative codes are signals.
    """

    words: str
    exit_codes: tuple[int, ...]

    def __new__(cls, number: int, words: str, *exit_codes: int) -> Fault:
        made = int.__new__(cls, number)
        made._value_, made.words, made.exit_codes = number, words, exit_codes
        return made

    NONE = 0, "no fault", 0
    KILL = 1, "killed before a file operation", -signal.SIGKILL
    FULL = 2, "disk full from a file operation on", 0, 1  # every later operation that needs room fails too
    EIO = 3, "input/output error of one file operation", 0, 1
    TORN = 4, "killed with a write half done", -signal.SIGKILL
    # Files lose half of their bytes if these were not flushed.
    POWER = 5, "power cut: killed, and what was not flushed is lost", -signal.SIGKILL
    # Operations that read have numbers of their own.
    EIO_READ = 6, "input/output error of one file operation that reads", 0, 1
    INTERRUPT = 7, "Ctrl-C at a file operation", 0, 130  # 0: the run was already at its end
    TERMINATE = 8, "SIGTERM at a file operation", -signal.SIGTERM
    HANG_UP = 9, "SIGHUP at a file operation", -signal.SIGHUP


def compiled(folder: Path = BUILD) -> Path:
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


# Arms the shim for a folder, does something in it, and prints the error that this had.
_SCRIPT = """
import os, sys
from pathlib import Path
from tests.attacks.faults.shim import Fault, arm

folder, fault, at, work = Path(sys.argv[1]), Fault[sys.argv[2]], int(sys.argv[3]), compile(sys.argv[4], "work", "exec")
log = os.open(folder.with_suffix(".log"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND)
if "import" in sys.argv[4]:
    import numpy, safetensors.numpy
arm([folder], fault, at, log)
try:
    exec(work)
except OSError as error:
    print(error.errno)
except Exception as error:
    print(error)
"""


def work_under(fault: Fault, at: int, folder: Path, work: str) -> tuple[int, str, list[tuple[str, int]]]:
    """Run a script in `folder`, where operation number `at` fails.

    Returns the exit code, the error, and name and bytes of each operation that changes files.
    """
    folder.mkdir(exist_ok=True)
    command = [sys.executable, "-c", _SCRIPT, str(folder), fault.name, str(at), work]
    env = os.environ | {"LD_PRELOAD": str(compiled()), "PYTHONPATH": "."}
    done = subprocess.run(command, capture_output=True, text=True, env=env, timeout=600)
    assert not done.stderr, done.stderr
    lines = [line.split(" ", 4) for line in folder.with_suffix(".log").read_text().splitlines()]
    return done.returncode, done.stdout.strip(), [(one[2], int(one[3])) for one in lines if one[0] in "cg"]
