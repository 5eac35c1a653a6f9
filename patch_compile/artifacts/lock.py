"""Gives one process exclusive use of a folder."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
from pathlib import Path

from patch_compile.errors import PatchCompileError
from patch_compile.file_lock import lock_file

LOCK = ".patch-compile.lock"
_OPEN = os.O_NOFOLLOW | os.O_NONBLOCK  # opening a FIFO would wait for its other end


class FolderLock:
    """An flock on a file in the folder. The kernel drops it when the process ends, for whatever reason.

    The file holds the process id. Raises PatchCompileError with the id if another process has the lock; two locks of one
    process exclude each other too. `release` removes the file. Set `folder` anew when the folder is renamed.

    refusal: `what` of the error, None for the default.
    """

    def __init__(self, folder: Path, refusal: str | None = None) -> None:
        self.folder = folder
        self._descriptor: int | None = None
        try:
            self._descriptor = _locked(folder / LOCK)
        except BlockingIOError:
            raise PatchCompileError(
                f"{refusal or f'Another run is writing into {folder}'} ({_written(folder)})",
                f"It holds {folder / LOCK}.",
                "Wait until it is done, or choose another folder.",
            ) from None
        except OSError as error:
            raise PatchCompileError(
                f"{folder} cannot be locked",
                error.strerror or str(error),
                f"See that it can be written to, and that {LOCK} in it is neither a link nor a special file; or choose "
                "another folder.",
            ) from error

    def holds(self) -> bool:
        """Returns True if the locked folder was not removed or replaced meanwhile."""
        return self._descriptor is not None and _is_file_of(self._descriptor, self.folder / LOCK)

    def release(self) -> None:
        """Give up the lock. A second call does nothing."""
        if self._descriptor is None:
            return
        descriptor, self._descriptor = self._descriptor, None
        path = self.folder / LOCK
        with contextlib.suppress(OSError):
            if _is_file_of(descriptor, path):
                path.unlink()
        os.close(descriptor)


def lock_holder(folder: Path) -> str | None:
    """Returns the process that holds a folder's lock, as "pid N", or None if no process does.

    Raises PatchCompileError as `lock_file` does.
    """
    try:
        descriptor = os.open(folder / LOCK, os.O_RDONLY | _OPEN)
    except OSError:
        return None
    try:
        lock_file(descriptor, folder, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return _written(folder)
    except OSError:
        return None
    finally:
        os.close(descriptor)
    return None


def _locked(path: Path) -> int:
    """Returns the descriptor of the locked file.

    The last holder may remove the file between opening and locking it. It then creates the file anew.
    """
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | _OPEN, 0o644)
        try:
            _check_plain(descriptor)
            lock_file(descriptor, path.parent, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_file_of(descriptor, path):
                os.ftruncate(descriptor, 0)
                os.pwrite(descriptor, f"pid {os.getpid()}\n".encode(), 0)
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _check_plain(descriptor: int) -> None:
    """Raise OSError for a FIFO or device, and for a file with a second name, which may be a file of the user."""
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:
        raise OSError(errno.EMLINK, f"{LOCK} is a special file, or a hard link to a file with another name.")


def _is_file_of(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.lstat())
    except FileNotFoundError:
        return False


def _written(folder: Path) -> str:
    try:
        text = (folder / LOCK).read_text(errors="replace").strip()
    except OSError:
        text = ""
    return text if text.startswith("pid ") and text[4:].isdigit() else "pid unknown"
