"""The family of n:16: of 16 weights of a row n are kept, in the order in which a lane of the kernel holds them.

A lane t of `mma.m16n8k16` holds, of a row of the A operand, columns 2t, 2t+1, 2t+8 and 2t+9 of each step of 16 columns. Over
a slab of 64 columns, four steps, these are 16 weights. They are the group, so that every lane holds exactly n kept weights:

    slab of 64 columns     step 0            step 1            step 2            step 3
    group t, positions     0  1  2  3        4  5  6  7        8  9 10 11       12 13 14 15
             columns       2t 2t+1 2t+8 2t+9   …+16              …+32              …+48

The four groups of a slab have t = 0 … 3. In the bits of a group's code, bit p stands for position p, 1 for kept.
"""

from typing import Any

from masklearn.masks.kinds.bits import OfBits, moved

_STEPS, _HALVES, _LANES, _PAIR = 4, 2, 4, 2  # column = 16·step + 8·half + 2·lane + pair


class OfSixteen(OfBits):
    """A code is a mask of 16 bits."""

    name = "n:16"
    group = 16
    span = 64
    code_bits = 16
    stored = "uint16"
    input_bits = (16,)
    windows = None

    def groups(self, values: Any) -> Any:
        """Gathers the columns of each lane."""
        lanes = moved(_steps(values), -2, -4)  # [..., slab, lane, step, half, pair]
        return lanes.reshape(*values.shape[:-1], values.shape[-1] // self.group, self.group)

    def columns(self, groups: Any) -> Any:
        *lead, count, size = groups.shape
        lanes = groups.reshape(*lead, count // _LANES, _LANES, _STEPS, _HALVES, _PAIR)
        return moved(lanes, -4, -2).reshape(*lead, count * size)

    def planes(self, values: Any) -> Any:
        """Gathers the columns of each position, in one copy."""
        steps = moved(_steps(values), (-4, -3, -1), (0, 1, 2))
        return steps.reshape(self.group, *values.shape[:-1], values.shape[-1] // self.group)


def _steps(values: Any) -> Any:
    """Returns `[..., slab, step, half, lane, pair]`."""
    *lead, columns = values.shape
    return values.reshape(*lead, columns // OfSixteen.span, _STEPS, _HALVES, _LANES, _PAIR)
