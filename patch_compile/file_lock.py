"""Locks open files, and says what to do where a file system has no locks."""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path

from patch_compile.errors import PatchCompileError

VARIABLE = "PATCH_COMPILE_NO_LOCKS"  # 1 lets commands work in folders whose file system has no locks
_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS)


def lock_file(descriptor: int, path: Path, how: int) -> None:
    """Lock an open file, as `flock` does. path: what is locked by it, for the error.

    Does nothing if the file system has no locks and the variable says to go on without. Without the variable it raises
    PatchCompileError then. Raises OSError for any other failure: BlockingIOError if another process has the lock.
    """
    try:
        fcntl.flock(descriptor, how)
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        if os.environ.get(VARIABLE) != "1":
            raise PatchCompileError(
                f"{path} cannot be locked",
                f"Its file system has no locks (flock): {os.strerror(error.errno)}.",
                f"Choose a folder on another file system; or set {VARIABLE}=1, and see to it that no two commands use the "
                "folder at once.",
            ) from error
