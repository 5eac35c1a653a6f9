"""Reads NumPy archives (.npz) that anybody may have written: no pickle, and no array before its size is known.

An archive of a few megabytes can hold an array of many gigabytes, because zeros compress a thousand times. The size is
known from the directory of the archive and from the header of the array, which must agree.
"""

from __future__ import annotations

import math
import tokenize
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from masklearn.base.safe_read import require_file

_SUFFIX = ".npy"
_NUMPY_FILE = b"\x93NUMPY"
_READ_HEADER = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


class ArrayArchive:
    """An `.npz` file of arrays of numbers. All errors but OSError are ValueErrors, whose text is a sentence."""

    def __init__(self, path: Path) -> None:
        """Raises OSError, and ValueError if the file is not an archive of arrays."""
        self.path = path
        require_file(path)
        with path.open("rb") as file:
            beginning = file.read(len(_NUMPY_FILE))
        if beginning == _NUMPY_FILE:
            raise ValueError("It holds a single array, not an archive of them.")
        with _sentences("The archive"):
            self._zip = zipfile.ZipFile(path)
        members = self._zip.namelist()
        if others := [name for name in members if not name.endswith(_SUFFIX)]:
            raise ValueError(f"{others[0]} is pickled, or not an array.")
        if len({*members}) < len(members):
            raise ValueError("It holds two arrays with the same name.")
        self.names = [name.removesuffix(_SUFFIX) for name in members]

    def size(self, name: str) -> int:
        """Returns the bytes that an array takes in memory, without reading it. Raises ValueError for a faulty header."""
        with _sentences(name), self._zip.open(name + _SUFFIX) as member:
            version = np.lib.format.read_magic(member)
            if version not in _READ_HEADER:
                raise ValueError(f"its header has version {version[0]}.{version[1]}")
            shape, _, dtype = _READ_HEADER[version](member)
            if dtype.hasobject:
                raise ValueError("it is pickled")
            size = math.prod(shape) * dtype.itemsize
            # numpy counts the bytes of a shape as if a side of 0 were 1.
            if any(n < 0 for n in shape) or math.prod(n or 1 for n in shape) * dtype.itemsize >= 2**63:
                raise ValueError(f"no array has the shape {list(shape)}")
            stored = self._zip.getinfo(name + _SUFFIX).file_size - member.tell()
            if size != stored:
                raise ValueError(f"its header tells of {size} bytes, the archive of {stored}")
            return size

    def read(self, name: str, most: int) -> NDArray[Any]:
        """Read an array. most: the bytes that it may take. Raises ValueError for a larger array, before reading it."""
        size = self.size(name)
        if size > most:
            raise ValueError(f"{name} takes {size} bytes, and at most {most} are read.")
        with _sentences(name), self._zip.open(name + _SUFFIX) as member:
            array: NDArray[Any] = np.lib.format.read_array(member, allow_pickle=False)
            return array


@contextmanager
def _sentences(what: str) -> Iterator[None]:
    """Raise the errors of damaged members as ValueErrors with a sentence."""
    try:
        yield
    except (
        ValueError, TypeError, KeyError, EOFError, OSError, RuntimeError, NotImplementedError, MemoryError,
        RecursionError, OverflowError, SyntaxError, tokenize.TokenError, zipfile.BadZipFile, zlib.error,
    ) as error:  # fmt: skip
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"{what}: {reason.rstrip('.')}.") from error
