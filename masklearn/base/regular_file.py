"""Refuses what is no file where a file is read: opening a FIFO waits forever, and a device never ends."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

__all__ = ["require_file"]

_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
}


def require_file(path: Path) -> os.stat_result:
    """Returns the status of a regular file, following links. Raises OSError, with a sentence, if it is anything else."""
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):
        kind = _KINDS.get(stat.S_IFMT(found.st_mode), "something else")
        raise OSError(errno.EINVAL, f"It is {kind}, not a file", str(path))
    return found
