"""The family of n:16: of 16 weights of a row n are kept, in the order in which a lane of the kernel holds them.

A lane t of `mma.m16n8k16` holds, of a row of the A operand, columns 2t, 2t+1, 2t+8 and 2t+9 of each step of 16 columns. Over
a slab of 64 columns, four steps, these are 16 weights. They are the group, so that every lane holds exactly n kept weights:

    slab of 64 columns     step 0            step 1            step 2            step 3
    group t, positions     0  1  2  3        4  5  6  7        8  9 10 11       12 13 14 15
             columns       2t 2t+1 2t+8 2t+9   …+16              …+32              …+48

The four groups of a slab have t = 0 … 3. In the bits of a group's code, bit p stands for position p, 1 for kept.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from masklearn.masks.kinds.base import Family, is_numpy

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_STEPS, _HALVES, _LANES, _PAIR = 4, 2, 4, 2  # column = 16·step + 8·half + 2·lane + pair


class OfSixteen(Family):
    """A code is a mask of 16 bits. In torch, which has few operations on uint16, codes are int32."""

    name = "n:16"
    group = 16
    span = 64
    code_bits = 16
    stored = "uint16"
    inputs_of_8_bits = False

    def best(self, scores: Any, kept: Any) -> Any:
        """Ranks the 16 scores of each group by comparing every two, so that the tie rule holds on every machine."""
        planes = _planes(scores)  # [16, ..., K/16]: each operation is on long rows, not on short groups
        ranks = _zeros_like(planes)  # number of scores of the group that go before this score
        for i in range(self.group - 1):
            wins = (planes[i] >= planes[i + 1 :]).view(ranks.dtype)
            ranks[i + 1 :] += wins
            ranks[i] += (self.group - 1 - i) - wins.sum(0, dtype=ranks.dtype)
        codes = _codes_like(ranks[0])
        for position in range(self.group):
            codes |= _wide(ranks[position] < kept) << position
        return codes

    def keep(self, codes: Any) -> Any:
        """Spreads the bits of each code to the columns of its group."""
        if is_numpy(codes):
            import numpy as np

            bits = np.unpackbits(codes.astype("<u2").view(np.uint8), bitorder="little").view(np.bool_)
            return _columns(bits.reshape(*codes.shape, self.group))
        shifts = codes.new_tensor(range(self.group))
        return _columns(((codes[..., None] >> shifts) & 1).bool())

    def groups(self, values: Any) -> Any:
        """Gathers the columns of each lane."""
        lead = values.shape[:-1]
        steps = values.reshape(*lead, values.shape[-1] // self.span, _STEPS, _HALVES, _LANES, _PAIR)
        lanes = _move(steps, -2, -4)  # [..., slab, lane, step, half, pair]
        return lanes.reshape(*lead, values.shape[-1] // self.group, self.group)

    def check(self, codes: NDArray[Any], kept: NDArray[np.uint8]) -> None:
        """Counts the bits of each code."""
        import numpy as np

        counts = np.bitwise_count(codes)
        if not np.array_equal(counts, kept):
            first = int(np.flatnonzero(counts != kept)[0])
            raise ValueError(
                f"a group of 16 keeps {counts[first]} weights in a tile that keeps {kept[first]}"
            )


def _columns(groups: Any) -> Any:
    """Inverse of `OfSixteen.groups`: `[..., K/16, 16]` to `[..., K]`."""
    *lead, count, size = groups.shape
    lanes = groups.reshape(*lead, count // _LANES, _LANES, _STEPS, _HALVES, _PAIR)
    return _move(lanes, -4, -2).reshape(*lead, count * size)


def _planes(scores: Any) -> Any:
    """Returns the scores `[16, ..., K/16]`: `OfSixteen.groups` with the positions in front, in one copy."""
    *lead, columns = scores.shape
    steps = scores.reshape(*lead, columns // OfSixteen.span, _STEPS, _HALVES, _LANES, _PAIR)
    planes = _move(steps, (-4, -3, -1), (0, 1, 2)).reshape(OfSixteen.group, *lead, columns // OfSixteen.group)
    return planes.copy(order="C") if is_numpy(planes) else planes.contiguous()


def _move(values: Any, axis: int | tuple[int, ...], to: int | tuple[int, ...]) -> Any:
    if not is_numpy(values):
        return values.movedim(axis, to)
    import numpy as np

    return np.moveaxis(values, axis, to)


def _zeros_like(planes: Any) -> Any:
    if is_numpy(planes):
        import numpy as np

        return np.zeros(planes.shape, np.uint8)
    return planes.new_zeros(planes.shape, dtype=planes.new_empty(0).byte().dtype)


def _codes_like(ranks: Any) -> Any:
    if is_numpy(ranks):
        return ranks.astype("u2") & 0
    return ranks.int() & 0


def _wide(bits: Any) -> Any:
    return bits.astype("u2") if is_numpy(bits) else bits.int()
