"""The hidden states of all windows between two blocks: in memory where they fit, else in a mapped file."""

import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import overload

import torch
from torch import Tensor

from masklearn.device import available_memory
from masklearn.errors import PatchCompileError

__all__ = ["HiddenStates", "check_space"]

# Of the memory that a device or the host has left, at most this share is taken: blocks and Hessians need room too.
_SHARE = 0.25


class HiddenStates(Sequence[Tensor]):
    """One tensor a window, each of the first one's shape and type; assigning an item replaces it.

    They lie on the device, on the host when they take more than a quarter of what is free on the device, and in a
    file when they take more than a quarter of what is free on the host: in full precision everywhere, so that the
    machine's memory does not show in the result. The file has no name; it is gone with the object.
    """

    def __init__(
        self, first: Tensor, count: int, store: Path | None = None, *, on_disk: bool | None = None
    ) -> None:
        """first: window 0, on the device; store: a folder for the file, None for the system's temporary one;
        on_disk: whether they are in a file, None to decide by size.

        PatchCompileError when the file does not fit there.
        """
        self._device = first.device
        homes = [at for at in (self._device, torch.device("cpu")) if _fits(first.nbytes * count, at)]
        mapped = not homes if on_disk is None else on_disk
        self._home = homes[0] if homes else torch.device("cpu")
        self._mapped = _mapped(first, count, store) if mapped else None
        self._kept: list[Tensor | None] = [None] * count
        self[0] = first

    @property
    def on_disk(self) -> bool:
        """Whether they are in a file."""
        return self._mapped is not None

    def __len__(self) -> int:
        return len(self._kept)

    @overload
    def __getitem__(self, index: int) -> Tensor: ...
    @overload
    def __getitem__(self, index: slice) -> list[Tensor]: ...
    def __getitem__(self, index: int | slice) -> Tensor | list[Tensor]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if self._mapped is not None:
            kept: Tensor | None = self._mapped[index].clone()
        else:
            kept = self._kept[index]
        assert kept is not None, "a window is read before it is there"
        return kept.to(self._device)

    def __setitem__(self, index: int, value: Tensor) -> None:
        if self._mapped is not None:
            self._mapped[index].copy_(value)
        else:
            self._kept[index] = value.to(self._home)

    def clear(self) -> None:
        """Give the memory back; nothing can be read any more."""
        self._mapped = None
        self._kept = [None] * len(self._kept)


def _fits(size: int, device: torch.device) -> bool:
    return size <= _SHARE * available_memory(device)


def _mapped(first: Tensor, count: int, store: Path | None) -> Tensor:
    """A tensor `[count, *shape]` that lives in a file without a name."""
    size = first.nbytes * count
    check_space(size, store)
    handle, name = tempfile.mkstemp(dir=store, prefix="hidden-")
    try:
        os.posix_fallocate(handle, 0, size)  # else a disk that fills up later would kill the process
        mapped = torch.from_file(name, shared=True, size=first.numel() * count, dtype=first.dtype)
    finally:
        os.close(handle)
        Path(name).unlink()
    return mapped.view(count, *first.shape)


def check_space(size: int, store: Path | None) -> None:
    """PatchCompileError when files of that many bytes do not fit into the folder, which is made."""
    if store is not None:
        store.mkdir(parents=True, exist_ok=True)
    folder = store or Path(tempfile.gettempdir())
    free = shutil.disk_usage(folder).free
    if free < size:
        raise PatchCompileError(
            "There is no space for the hidden states of the windows",
            f"They take {size / 1e9:.1f} GB, {folder} has {free / 1e9:.1f} GB.",
            "Make room, or give fewer or shorter windows.",
        )
