"""Families whose codes are masks: bit p of a group's code is 1 if position p of the group is kept."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Any

from masklearn.masks.kinds.base import Family, is_numpy

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class OfBits(Family):
    """A code has as many bits as a group has positions. In torch, which has few operations on uint16, codes of 16 bits are
    int32."""

    @abstractmethod
    def columns(self, groups: Any) -> Any:
        """Inverse of `groups`: `[..., K/group, group]` to `[..., K]`."""

    @abstractmethod
    def planes(self, values: Any) -> Any:
        """Returns a view of the values `[group, ..., K/group]`: `groups` with the positions in front."""

    def best(self, scores: Any, kept: Any) -> Any:
        """Ranks the scores of each group by comparing every two, so that the tie rule holds on every machine."""
        planes = self.planes(scores)  # copied, so that each operation is on long rows, not on short groups
        planes = planes.copy(order="C") if is_numpy(planes) else planes.contiguous()
        ranks = _zeros_like(planes)  # number of scores of the group that go before this score
        for i in range(self.group - 1):
            wins = (planes[i] >= planes[i + 1 :]).view(ranks.dtype)
            ranks[i + 1 :] += wins
            ranks[i] += (self.group - 1 - i) - wins.sum(0, dtype=ranks.dtype)
        codes = self._widened(ranks[0]) & 0
        for position in range(self.group):
            codes |= self._widened(ranks[position] < kept) << position
        return codes

    def keep(self, codes: Any) -> Any:
        """Spreads the bits of each code to the columns of its group."""
        if is_numpy(codes):
            import numpy as np

            stored = codes.astype(np.dtype(self.stored).newbyteorder("<"))
            bits = np.unpackbits(stored.view(np.uint8), bitorder="little").view(np.bool_)
            return self.columns(bits.reshape(*codes.shape, self.group))
        shifts = codes.new_tensor(range(self.group))
        return self.columns(((codes[..., None] >> shifts) & 1).bool())

    def check(self, codes: NDArray[Any], kept: NDArray[np.uint8]) -> None:
        """Counts the bits of each code."""
        import numpy as np

        counts = np.bitwise_count(codes)
        if not np.array_equal(counts, kept):
            first = int(np.flatnonzero(counts != kept)[0])
            raise ValueError(
                f"a group of {self.group} keeps {counts[first]} weights in a tile that keeps {kept[first]}"
            )

    def _widened(self, bits: Any) -> Any:
        """Returns numbers in the type of a code."""
        if is_numpy(bits):
            return bits.astype(self.stored)
        return bits.int() if self.group > 8 else bits.byte()


def moved(values: Any, axis: int | tuple[int, ...], to: int | tuple[int, ...]) -> Any:
    """Returns a view of an array with axes in other places."""
    if not is_numpy(values):
        return values.movedim(axis, to)
    import numpy as np

    return np.moveaxis(values, axis, to)


def _zeros_like(planes: Any) -> Any:
    if is_numpy(planes):
        import numpy as np

        return np.zeros(planes.shape, np.uint8)
    return planes.new_zeros(planes.shape, dtype=planes.new_empty(0).byte().dtype)
