"""The family of 2:4: of every 4 consecutive columns of a row 2 are kept, which sparse tensor cores multiply."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from masklearn.masks.kinds.base import Family, is_numpy

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class TwoOfFour(Family):
    """A code is an index 0 … 5 into `patterns.PATTERNS`. A packed group holds two positions of 2 bits."""

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

    def groups(self, values: Any) -> Any:
        return values.reshape(*values.shape[:-1], values.shape[-1] // self.group, self.group)

    def check(self, codes: NDArray[Any], kept: NDArray[np.uint8]) -> None:  # noqa: ARG002
        """All six patterns keep 2."""
        from masklearn.masks.nm_codes import PATTERNS

        if codes.size and int(codes.max()) >= len(PATTERNS):
            raise ValueError(f"pattern code {int(codes.max())}, the highest is {len(PATTERNS) - 1}")
