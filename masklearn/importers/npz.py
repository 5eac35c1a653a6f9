"""Reads NumPy archives of bit-packed masks, as MaskLLM and PATCH publish them, one mask at a time and without pickle."""

import math
import zipfile
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from masklearn.base.errors import reading
from masklearn.base.npz import ArrayArchive

_WIDEST = 8  # bytes of an element of any type: an array of another type is refused by its name


class MaskArchive(ArrayArchive):
    """An `.npz` file of masks."""

    def __init__(self, path: Path) -> None:
        """Raises MaskLearnError if the file does not exist, or is not an archive of arrays."""
        with _refusing(path):
            super().__init__(path)

    def read(self, name: str, most: int) -> NDArray[Any]:
        """Read an array; most: its largest size in bytes.

        Raises MaskLearnError if the array is larger (before it is read), damaged or pickled.
        """
        with _refusing(self.path):
            return super().read(name, most)

    def read_bits(self, name: str, shape: tuple[int, ...]) -> NDArray[np.bool_]:
        """Read a mask of this shape that was stored by `np.packbits` of its flat 0/1 values, highest bit first.

        Raises MaskLearnError if the array has another size or is damaged.
        """
        count = math.prod(shape)
        size = -(-count // 8)
        packed = self.read(name, _WIDEST * size)
        with _refusing(self.path):
            if packed.dtype != np.uint8 or packed.shape != (size,):
                raise ValueError(
                    f"{name} is {packed.dtype} {list(packed.shape)}; {count} bits are uint8 [{size}]"
                )
            bits = np.unpackbits(packed)
            if bits[count:].any():
                raise ValueError(f"{name} has bits after its last weight")
        return bits[:count].astype(np.bool_).reshape(shape)


def _refusing(path: Path) -> AbstractContextManager[None]:
    fix = (
        "Fetch the file again, or write it with np.savez_compressed and arrays of uint8. Give the model that the masks were "
        "made for."
    )
    return reading(path, fix, what="holds no masks that can be read")


def archive_names(source: Path) -> list[str] | None:
    """Returns the names of an archive's arrays, or None if `source` is not an archive. Raises as `MaskArchive` does."""
    return MaskArchive(source).names if source.is_file() and zipfile.is_zipfile(source) else None
