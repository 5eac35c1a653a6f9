"""Writes files that are never half there, and that survive a power cut."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["flush_folder", "flush_tree", "whole_file"]

# A few network and FUSE file systems can't flush folders.
_NOT_FOR_FOLDERS = (errno.EINVAL, errno.EBADF, errno.ENOTSUP)


@contextmanager
def whole_file(path: Path, beside: str | None = None) -> Iterator[Path]:
    """Yield a path beside `path` to write to. At the end of the block that file is flushed and renamed to `path`.

    After an error in the block, and after any error of the disk, the file is removed and `path` is as it was.
    beside: name of the file to write; None for one that no other process uses.
    """
    part = path.with_name(beside or f".{path.name}.{os.getpid()}.part")
    try:
        yield part
        _flush(part)
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    flush_folder(path.parent)


def flush_tree(folder: Path) -> None:
    """Flush a folder with every file and folder in it. A file is flushed alone, and nothing is done if there is none."""
    for path in (*folder.rglob("*"), folder):
        if path.is_symlink():
            continue
        if path.is_dir():
            flush_folder(path)
        elif path.is_file():
            _flush(path)


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
