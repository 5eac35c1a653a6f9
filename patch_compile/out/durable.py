"""Writes files that survive a power cut: they are flushed to the disk before a rename makes them valid."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = ["flush_folder", "flush_tree", "write_json"]

# A few network and FUSE file systems can't flush folders.
_NOT_FOR_FOLDERS = (errno.EINVAL, errno.EBADF, errno.ENOTSUP)


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write JSON to a file beside `path`, flush it, and rename it to `path` when it is complete."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("w") as file:
        file.write(json.dumps(value, indent=1, sort_keys=False) + "\n")
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    flush_folder(path.parent)


def flush_tree(folder: Path) -> None:
    """Flush every file and folder in `folder`, and the folder itself."""
    for path in folder.rglob("*"):
        if path.is_symlink():
            continue
        if path.is_dir():
            flush_folder(path)
        elif path.is_file():
            _flush(path)
    flush_folder(folder)


def flush_folder(folder: Path) -> None:
    """Flush the entries of a folder: the files created, renamed or removed in it."""
    try:
        _flush(folder)
    except OSError as error:
        if error.errno not in _NOT_FOR_FOLDERS:
            raise


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
