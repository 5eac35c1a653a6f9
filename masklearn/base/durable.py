"""Writes files that are never half there, and that survive a power cut."""

from __future__ import annotations

import errno
import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# A few network and FUSE file systems can't flush folders.
_NOT_FOR_FOLDERS = (errno.EINVAL, errno.EBADF, errno.ENOTSUP)
_OF_WRITING = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_TEMPORARY = re.compile(r"\..+\.[0-9a-f]{16}\.part(\.\w+)?")


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yield a temporary file in the folder of `path`. At the end of the block it is flushed and renamed to `path`.

    After an error in the block, and after any error of the disk, the temporary file is removed and `path` is as it was. If
    `path` is a link, the link is replaced and its target stays as it was.
    """
    part = _new_file(path)
    try:
        yield part
        _flush(part)
        part.replace(path)
    except BaseException as error:
        part.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno in _OF_WRITING:  # such an error names no file
            error.filename = str(path)
        raise
    flush_folder(path.parent)


def write_whole(path: Path, text: str) -> None:
    """Write a text by `whole_file`."""
    with whole_file(path) as part:
        part.write_text(text)


@contextmanager
def temporary_file(path: Path) -> Iterator[Path]:
    """Yield a new empty file in the folder of `path`, with its suffix. It is removed at the end of the block."""
    part = _new_file(path, path.suffix)
    try:
        yield part
    finally:
        part.unlink(missing_ok=True)


def _new_file(path: Path, suffix: str = "") -> Path:
    """Create a file with a fresh name in the folder of `path`, and return its path.

    It is created exclusively: a link or file that somebody else put there is never written to. Ctrl-C meanwhile leaves no
    file.
    """
    part = path.with_name(temporary_name(path.name) + suffix)
    try:
        os.close(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o666))
    except KeyboardInterrupt:
        part.unlink(missing_ok=True)
        raise
    return part


def temporary_name(name: str) -> str:
    """Returns a fresh name for a file or folder that will be renamed to `name`, or removed."""
    return f".{name}.{secrets.token_hex(8)}.part"


def is_temporary(name: str) -> bool:
    """Returns True for the name of a temporary file or folder, which a run that was killed may have left."""
    return _TEMPORARY.fullmatch(name) is not None


def flush_tree(folder: Path) -> None:
    """Flush a file, or a folder with everything in it. Does nothing if the path does not exist."""
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
