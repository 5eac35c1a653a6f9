"""Tensors of a model folder as they are stored: several tensors for each quantised weight."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from masklearn.base.shard import Shard, TensorEntry
from masklearn.model.quantised.errors import damaged

__all__ = ["StoredTensors"]


class StoredTensors:
    """Tensors of a folder's shards by name, with checked reads.

    folder: the model folder, for errors; shards: file name in the folder to header.
    """

    def __init__(self, folder: Path, shards: Mapping[str, Shard]) -> None:
        self.folder = folder
        self._shards = shards
        self._file_of = {name: file for file, shard in shards.items() for name in shard.tensors}

    def __contains__(self, name: object) -> bool:
        return name in self._file_of

    def modules(self, last: str) -> Iterator[str]:
        """Yield the names of all modules that have a tensor called `last`."""
        end = f".{last}"
        return (name.removesuffix(end) for name in self._file_of if name.endswith(end))

    def file_of(self, name: str) -> str:
        """Returns the name of the file in the folder that holds a tensor."""
        return self._file_of[name]

    def entry(self, name: str) -> TensorEntry:
        """Returns a tensor's entry in the header."""
        return self._shards[self._file_of[name]].tensors[name]

    def read(self, name: str) -> NDArray[Any]:
        """Read a tensor into memory."""
        return self._shards[self._file_of[name]].read(name)

    def need(self, name: str, dtypes: tuple[str, ...], shape: tuple[int | None, ...]) -> TensorEntry:
        """Returns the entry of a tensor. shape: None for a length that is not known yet.

        Raises MaskLearnError if it is missing or of another type or shape.
        """
        if name not in self:
            raise damaged(self.folder, name, "It is missing, and the other tensors of its weight are there.")
        entry = self.entry(name)
        fits = len(entry.shape) == len(shape) and all(
            length is None or length == found for length, found in zip(shape, entry.shape, strict=True)
        )
        if entry.dtype not in dtypes or not fits:
            expected = f"{' or '.join(dtypes)} [{', '.join('…' if n is None else str(n) for n in shape)}]"
            raise damaged(
                self.folder, name, f"It is {entry.dtype} {list(entry.shape)}, and should be {expected}."
            )
        return entry

    def scales(self, name: str) -> NDArray[np.float32]:
        """Read scales as float32. Raises MaskLearnError if one is not finite."""
        scales = self.read(name).astype(np.float32)
        if not np.isfinite(scales).all():
            raise damaged(self.folder, name, "A scale is not finite.")
        return scales
