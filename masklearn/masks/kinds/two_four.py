"""The family of 2:4: of every 4 consecutive columns of a row 2 are kept, which sparse tensor cores multiply."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from masklearn.masks.kinds.base import Family
from masklearn.masks.patterns import PATTERNS, patterns_from_scores

__all__ = ["TwoOfFour"]

# The four booleans of a group as one 32-bit word, which numpy copies faster than four booleans.
_KEPT = PATTERNS.view(np.uint32)[:, 0]


class TwoOfFour(Family):
    """A code is an index 0 … 5 into `patterns.PATTERNS`. A packed group holds two positions of 2 bits."""

    name = "2:4"
    group = 4
    span = 4
    code_bits = 4
    stored = np.uint8

    def best(self, scores: Any, kept: Any = 2) -> Any:  # noqa: ARG002
        """Returns the codes of the two best of each four; `kept` is always 2."""
        return patterns_from_scores(scores)

    def keep(self, codes: Any) -> Any:
        """Looks codes up in the table of patterns."""
        if isinstance(codes, np.ndarray):
            return _KEPT[codes].view(np.bool_)
        table = codes.new_tensor(PATTERNS.tolist()).bool()
        return table[codes.int()].view(*codes.shape[:-1], codes.shape[-1] * self.group)

    def groups(self, values: Any) -> Any:
        """Neighbouring columns are a group."""
        return values.reshape(*values.shape[:-1], values.shape[-1] // self.group, self.group)

    def check(self, codes: NDArray[Any], kept: NDArray[np.uint8]) -> None:  # noqa: ARG002
        """All six patterns keep 2."""
        if codes.size and int(codes.max()) >= len(PATTERNS):
            raise ValueError(f"pattern code {int(codes.max())}, the highest is {len(PATTERNS) - 1}")
