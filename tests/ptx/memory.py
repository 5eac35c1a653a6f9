"""A state space of PTX: one array of bytes, and masks of the bytes that may be read or written."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.ptx.parser import PtxFault

Array = NDArray[Any]

POISON = 0xFF  # a NaN in every floating type, and an address without any alignment
_SHARED_BASE = 1024  # sm_80 and newer reserve the first KiB for the system
_GLOBAL_BASE = 0x7F_0000_0000  # so that 32 bits of an address do not suffice
_GUARD = 512  # bytes between tensors
_READ, _WRITE = 1, 2


class Memory:
    """One state space. An access that is forbidden, or not aligned to its width, is a fault."""

    def __init__(self, base: int, size: int) -> None:
        self.base, self.size = base, size
        self.bytes = np.full(-(-size // 16) * 16, POISON, np.uint8)
        self.access = np.zeros(len(self.bytes), np.uint8)
        self.places: dict[str, slice] = {}

    @classmethod
    def shared(cls, size: int) -> Memory:
        memory = cls(_SHARED_BASE, size)
        memory.access[:size] = _READ | _WRITE
        return memory

    @classmethod
    def holding(cls, tensors: Mapping[str, Array], writable: Iterable[str]) -> Memory:
        """Global memory that holds the tensors with guards between them; tensors not in `writable` are constant."""
        places, end = {}, _GUARD
        for name, tensor in tensors.items():
            places[name] = slice(end, end + tensor.nbytes)
            end += -(-tensor.nbytes // 256) * 256 + _GUARD
        memory = cls(_GLOBAL_BASE, end)
        memory.places = places
        for name, tensor in tensors.items():
            memory.bytes[places[name]] = np.ascontiguousarray(tensor).view(np.uint8).reshape(-1)
            memory.access[places[name]] = _READ | _WRITE if name in writable else _READ
        return memory

    def address(self, name: str) -> int:
        return self.base + self.places[name].start

    def tensor(self, name: str, dtype: Any) -> Array:
        return self.bytes[self.places[name]].view(dtype)

    def poison(self) -> None:
        self.bytes[:] = POISON

    def load(self, address: Array, dtype: np.dtype[Any], count: int = 1, *, constant: bool = False) -> Array:
        """Load values [n, count] from n addresses; constant: the kernel must never write this memory (.nc)."""
        width = dtype.itemsize * count
        offset = self._offset(address, width, _READ)
        if constant and (self.access[offset] & _WRITE).any():
            raise PtxFault("a .nc load of memory that the kernel writes")
        return self.bytes.view(dtype).reshape(-1, count)[offset // width]

    def store(self, address: Array, values: Array) -> None:
        """Store values [n, count] at n addresses."""
        width = values.itemsize * values.shape[1]
        offset = self._offset(address, width, _WRITE)
        self.bytes.view(values.dtype).reshape(-1, values.shape[1])[offset // width] = values

    def check(self, address: Array, width: int) -> None:
        """Raise PtxFault unless `width` bytes may be read at each address."""
        self._offset(address, width, _READ)

    def _offset(self, address: Array, width: int, right: int) -> Array:
        offset = address - self.base
        if (address % width).any():
            raise PtxFault(f"an address is not aligned to {width} bytes")
        if len(offset) and not (offset.min() >= 0 and offset.max() <= self.size - width):
            raise PtxFault("an address lies outside of the memory")
        if not (self.access[offset] & self.access[offset + width - 1] & right).all():
            raise PtxFault(f"{width} bytes may not be {'read' if right == _READ else 'written'}")
        return offset
