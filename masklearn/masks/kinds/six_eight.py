"""The family of 6:8: of every 8 consecutive columns of a row 6 are kept.

Such a group is three windows of 4 columns, [0 … 3], [2 … 5] and [4 … 7], that each hold 2 of the kept weights. Sparse tensor
cores multiply them as 2:4, in three quarters of the time that 8 dense columns take (SlideSparse, arXiv 2603.05232).
"""

from typing import Any

from masklearn.masks.kinds.bits import OfBits, moved


class SixOfEight(OfBits):
    """A code is a mask of 8 bits. A packed group holds two positions of 2 bits for each of its three windows."""

    name = "6:8"
    group = 8
    span = 8
    code_bits = 12
    stored = "uint8"
    input_bits = (8,)
    windows = 1.5

    def groups(self, values: Any) -> Any:
        return values.reshape(*values.shape[:-1], values.shape[-1] // self.group, self.group)

    def columns(self, groups: Any) -> Any:
        return groups.reshape(*groups.shape[:-2], groups.shape[-2] * self.group)

    def planes(self, values: Any) -> Any:
        return moved(self.groups(values), -1, 0)
