"""Reads and writes arrays in .npy files."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["load_array", "save_array"]


def load_array(path: Path) -> NDArray[Any]:
    """Read a .npy file. Raises OSError if the disk does not give all of it.

    `np.load` hands the file to a C stream, and takes a read that fails for the end of the file. It can't do so with an
    object that has nothing but `read`.
    """
    with path.open("rb") as file:
        array: NDArray[Any] = np.lib.format.read_array(SimpleNamespace(read=file.read), allow_pickle=False)
    return array


def save_array(path: Path, array: NDArray[Any]) -> None:
    """Write an array to a .npy file. Raises OSError if the disk does not take all of it.

    `np.save` does not: it hands the array to a C stream, and ignores that closing the stream, which writes the last
    kilobytes, fails. It can't do so with an object that has nothing but `write`.
    """
    with path.open("wb") as file:
        np.lib.format.write_array(SimpleNamespace(write=file.write), array, allow_pickle=False)
