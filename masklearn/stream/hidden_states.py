"""Holds the hidden states of all windows between two blocks, in memory if they fit, else in a memory-mapped file."""

import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import overload

import torch
from torch import Tensor

from masklearn.base.device import available_memory
from masklearn.base.errors import MaskLearnError

# Largest share of a device's or the host's free memory to take: blocks and Hessians need room too.
_SHARE = 0.25


class HiddenStates(Sequence[Tensor]):
    """Sequence of one tensor per window, all of the same shape and type. Assigning an item replaces it.

    They are kept on the device if they take at most a quarter of its free memory, else on the host if they take at most
    a quarter of its free memory, else in a file. All three keep full precision, so that results do not depend on the
    machine's memory. The file has no name and vanishes with the object.
    """

    def __init__(
        self, first: Tensor, count: int, store: Path | None = None, *, on_disk: bool | None = None
    ) -> None:
        """first: window 0, on the device; count: number of windows; store: folder for the file, None for the system's
        temporary folder; on_disk: True for a file, False for memory, None to decide by size.

        Raises MaskLearnError if the file does not fit on the disk.
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
        """Free the memory. No window can be read afterwards."""
        self._mapped = None
        self._kept = [None] * len(self._kept)


def _fits(size: int, device: torch.device) -> bool:
    return size <= _SHARE * available_memory(device)


def _mapped(first: Tensor, count: int, store: Path | None) -> Tensor:
    """Returns a tensor `[count, *shape]` in a file without a name."""
    size = first.nbytes * count
    check_space(size, store)
    handle, name = tempfile.mkstemp(dir=store, prefix="hidden-")
    try:
        os.posix_fallocate(handle, 0, size)  # writing to a sparse file kills the process if the disk is full
        mapped = torch.from_file(name, shared=True, size=first.numel() * count, dtype=first.dtype)
    finally:
        os.close(handle)
        Path(name).unlink()
    return mapped.view(count, *first.shape)


def check_space(
    size: int,
    store: Path | None,
    what: str = "hidden states of the windows",
    fix: str = "Make room, or give fewer or shorter windows.",
) -> None:
    """Create the folder. Raises MaskLearnError if it has no room for files of `size` bytes.

    store: the folder, None for the system's temporary folder; what: what the files hold; fix: what the user can do.
    """
    if store is not None:
        store.mkdir(parents=True, exist_ok=True)
    folder = store or Path(tempfile.gettempdir())
    free = shutil.disk_usage(folder).free
    if free < size:
        raise MaskLearnError(
            f"There is no space for the {what}",
            f"They take {size / 1e9:.1f} GB, {folder} has {free / 1e9:.1f} GB.",
            fix,
        )
