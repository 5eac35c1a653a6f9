"""The families of 2:4, n:16 and 6:8: how each keeps weights of a group, and the order of a group's weights."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Any

from masklearn.masks.kinds.base import Family, is_numpy

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class TwoOfFour(Family):
    """Of every 4 consecutive columns of a row 2 are kept, which sparse tensor cores multiply.

    A code is an index 0 … 5 into `nm_codes.PATTERNS`. A packed group holds two positions of 2 bits.
    """

    name = "2:4"
    group = 4
    span = 4
    code_bits = 4
    stored = "uint8"
    input_bits = (16, 8)
    windows = 1.0

    def best(self, scores: Any, kept: Any = 2) -> Any:  # noqa: ARG002
        """Returns the codes of the two best of each four; `kept` is always 2."""
        from masklearn.masks.nm_codes import patterns_from_scores

        return patterns_from_scores(scores)

    def keep(self, codes: Any) -> Any:
        """Looks codes up in the table of patterns."""
        from masklearn.masks.nm_codes import PATTERNS

        if is_numpy(codes):  # the four booleans as one 32-bit word, which numpy copies faster
            return PATTERNS.view("u4")[:, 0][codes].view("?")
        table = codes.new_tensor(PATTERNS.tolist()).bool()
        return table[codes.int()].view(*codes.shape[:-1], codes.shape[-1] * self.group)

    def check(self, codes: NDArray[Any], kept: NDArray[np.uint8]) -> None:  # noqa: ARG002
        """All six patterns keep 2."""
        from masklearn.masks.nm_codes import PATTERNS

        if codes.size and int(codes.max()) >= len(PATTERNS):
            raise ValueError(f"pattern code {int(codes.max())}, the highest is {len(PATTERNS) - 1}")


class _OfBits(Family):
    """Family whose codes are masks: bit p of a group's code is 1 if position p of the group is kept.

    In torch, which has few operations on uint16, codes of 16 bits are int32.
    """

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


_STEPS, _HALVES, _LANES, _PAIR = 4, 2, 4, 2  # column = 16·step + 8·half + 2·lane + pair


class OfSixteen(_OfBits):
    """Of 16 weights of a row n are kept, in the order in which a lane of the kernel holds them. A code is a mask of 16 bits.

    A lane t of `mma.m16n8k16` holds, of a row of the A operand, columns 2t, 2t+1, 2t+8 and 2t+9 of each step of 16 columns.
    Over a slab of 64 columns, four steps, these are 16 weights. They are the group, so that every lane holds exactly n kept
    weights:

        slab of 64 columns     step 0            step 1            step 2            step 3
        group t, positions     0  1  2  3        4  5  6  7        8  9 10 11       12 13 14 15
                 columns       2t 2t+1 2t+8 2t+9   …+16              …+32              …+48

    The four groups of a slab have t = 0 … 3.
    """

    name = "n:16"
    group = 16
    span = 64
    code_bits = 16
    stored = "uint16"
    input_bits = (16,)
    windows = None

    def groups(self, values: Any) -> Any:
        """Gathers the columns of each lane."""
        lanes = _moved(_steps(values), -2, -4)  # [..., slab, lane, step, half, pair]
        return lanes.reshape(*values.shape[:-1], values.shape[-1] // self.group, self.group)

    def columns(self, groups: Any) -> Any:
        *lead, count, size = groups.shape
        lanes = groups.reshape(*lead, count // _LANES, _LANES, _STEPS, _HALVES, _PAIR)
        return _moved(lanes, -4, -2).reshape(*lead, count * size)

    def planes(self, values: Any) -> Any:
        """Gathers the columns of each position, in one copy."""
        steps = _moved(_steps(values), (-4, -3, -1), (0, 1, 2))
        return steps.reshape(self.group, *values.shape[:-1], values.shape[-1] // self.group)


def _steps(values: Any) -> Any:
    """Returns `[..., slab, step, half, lane, pair]`."""
    *lead, columns = values.shape
    return values.reshape(*lead, columns // OfSixteen.span, _STEPS, _HALVES, _LANES, _PAIR)


class SixOfEight(_OfBits):
    """Of every 8 consecutive columns of a row 6 are kept. A code is a mask of 8 bits.

    A group is three windows of 4 columns, [0 … 3], [2 … 5] and [4 … 7], that each hold 2 of the kept weights. Sparse tensor
    cores multiply them as 2:4, in three quarters of the time that 8 dense columns take (SlideSparse, arXiv 2603.05232). A
    packed group holds two positions of 2 bits for each of its windows.
    """

    name = "6:8"
    group = 8
    span = 8
    code_bits = 12
    stored = "uint8"
    input_bits = (8,)
    windows = 1.5

    def columns(self, groups: Any) -> Any:
        return groups.reshape(*groups.shape[:-2], groups.shape[-2] * self.group)

    def planes(self, values: Any) -> Any:
        return _moved(self.groups(values), -1, 0)


def _moved(values: Any, axis: int | tuple[int, ...], to: int | tuple[int, ...]) -> Any:
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
