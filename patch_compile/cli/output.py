"""Writes to stdout, which may be full, closed, or a pipe that nobody reads any more."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from patch_compile.errors import PatchCompileError


@contextmanager
def writing_output() -> Iterator[None]:
    """Raise PatchCompileError if stdout takes no more in this block, which does nothing but write to it.

    A reader that has left, such as `head`, has read what it wanted: what follows is dropped, and the command goes on.
    """
    try:
        yield
    except BrokenPipeError:
        _drop_output()
    except OSError as error:
        _drop_output()
        raise PatchCompileError(
            "The output can't be written",
            f"stdout: {error.strerror or error}.",
            "Send it elsewhere. The files that the command has written are whole.",
        ) from error


def _drop_output() -> None:
    """Let stdout lead nowhere, so that Python's own end does not fail on what is still in its buffer."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


def open_closed_streams() -> None:
    """Open the null device in the place of each standard stream that the caller has closed.

    Else the next file that is opened gets the number of the stream, and a library that prints writes into that file.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:  # it is closed, and `open` takes the lowest free number
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
