"""Reads NumPy archives of bit-packed masks, as MaskLLM and PATCH publish them, one mask at a time and without pickle."""

import hashlib
import math
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from masklearn.base.errors import MaskLearnError
from masklearn.base.npz import ArrayArchive, PickledError

_WIDEST = 8  # bytes of an element of any type: an array of another type is refused by its name


class MaskArchive:
    """An `.npz` file of masks."""

    def __init__(self, path: Path) -> None:
        """Raises MaskLearnError if the file does not exist, or is not an archive of arrays."""
        self.path = path
        try:
            self._arrays = ArrayArchive(path)
        except FileNotFoundError as error:
            raise MaskLearnError(
                f"No masks at {path}", "There is no such file.", "Give the path of an .npz file of masks."
            ) from error
        except PickledError as error:
            raise self._refused(error.name) from error
        except (ValueError, OSError) as error:
            raise self._damaged(str(error)) from error

    @property
    def names(self) -> list[str]:
        return self._arrays.names

    def read(self, name: str, most: int) -> NDArray[Any]:
        """Read an array; most: its largest size in bytes.

        Raises MaskLearnError if the array is larger (before it is read), damaged or pickled.
        """
        try:
            return self._arrays.read(name, most)
        except PickledError as error:
            raise self._refused(error.name) from error
        except (ValueError, OSError) as error:
            raise self._damaged(str(error)) from error

    def read_bits(self, name: str, shape: tuple[int, ...]) -> NDArray[np.bool_]:
        """Read a mask of this shape that was stored by `np.packbits` of its flat 0/1 values, highest bit first.

        Raises MaskLearnError if the array has another size or is damaged.
        """
        count = math.prod(shape)
        packed = self.read(name, _WIDEST * -(-count // 8))
        if packed.dtype != np.uint8 or packed.ndim != 1 or packed.size != -(-count // 8):
            raise MaskLearnError(
                f"{name} in {self.path} is {packed.dtype} {list(packed.shape)}",
                f"The bits of {'x'.join(map(str, shape))} weights take {-(-count // 8)} bytes.",
                "Give the model that the masks were made for.",
            )
        bits = np.unpackbits(packed)
        if bits[count:].any():
            raise self._damaged(f"{name} has bits after its last weight.")
        return bits[:count].astype(np.bool_).reshape(shape)

    def sha256(self) -> str:
        """Returns the sha256 of the file's bytes."""
        with self.path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def _refused(self, name: str) -> MaskLearnError:
        return MaskLearnError(
            f"{name} in {self.path} is pickled, or not an array",
            "A pickle runs code when it is read, so only arrays of numbers are.",
            "Write the archive with np.savez_compressed and arrays of uint8.",
        )

    def _damaged(self, why: str) -> MaskLearnError:
        return MaskLearnError(
            f"{self.path} is damaged or not an archive of masks", why, "Fetch the file again."
        )


def archive_names(source: Path) -> list[str] | None:
    """Returns the names of an archive's arrays, or None if `source` is not an archive. Raises as `MaskArchive` does."""
    return MaskArchive(source).names if source.is_file() and zipfile.is_zipfile(source) else None
