"""The six 2:4 patterns, and the rule that picks one from scores."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["KEPT_POSITIONS", "PATTERNS", "patterns_from_keep", "patterns_from_scores", "removed_scores"]

# Lexicographic order of the kept positions; a code 0..5 on disk is an index into this.
KEPT_POSITIONS: tuple[tuple[int, int], ...] = ((0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3))

PATTERNS: NDArray[np.bool_] = np.zeros((6, 4), dtype=np.bool_)
for _code, _kept in enumerate(KEPT_POSITIONS):
    PATTERNS[_code, list(_kept)] = True
PATTERNS.setflags(write=False)


def patterns_from_scores(scores: Any) -> Any:
    """Keep the two highest scores of each 4 consecutive k.

    scores: `[..., K]`, numpy or torch, K % 4 == 0, without NaN. Returns codes 0..5 as uint8 `[..., K/4]`,
    of the same library and on the same device.

    Tie rule: of equal scores the **lower k is kept**. Weights on a 4-bit grid tie at the cut in about 15 % of
    groups, so the rule decides quality (baselines: keeping the first index beats keeping the last) and must
    never depend on a sort's whim. Only comparisons are used, so the result is the same on every machine.
    """
    groups: Any = scores.reshape(*scores.shape[:-1], scores.shape[-1] // 4, 4)
    return _codes(groups, _uint8(scores))


def removed_scores(scores: Any) -> Any:
    """Sum of the two scores `patterns_from_scores` gives up in each group: `[..., K]` to `[..., K/4]`."""
    groups: Any = scores.reshape(*scores.shape[:-1], scores.shape[-1] // 4, 4)
    a, b, c, d = (groups[..., i] for i in range(4))
    # The two lowest of four: the lower of each pair, and the lesser of (the other pair's upper, ...), by a
    # sorting network; a sum of all minus the kept two would cancel where one score dwarfs the others.
    low_ab, high_ab = _low_high(a, b)
    low_cd, high_cd = _low_high(c, d)
    lowest, other = _low_high(low_ab, low_cd)
    second, _ = _low_high(other, _low_high(high_ab, high_cd)[0])
    return lowest + second


def patterns_from_keep(keep: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Codes of a mask that keeps exactly two of every four: `[..., K]` bool to `[..., K/4]` uint8.

    Raises ValueError where a group keeps any other number.
    """
    groups = keep.reshape(*keep.shape[:-1], keep.shape[-1] // 4, 4)
    if not bool((groups.sum(axis=-1) == 2).all()):
        raise ValueError("a group of 4 does not keep exactly two weights")
    codes: NDArray[np.uint8] = patterns_from_scores(keep.astype(np.uint8))
    return codes


def _uint8(array: Any) -> Any:
    if isinstance(array, np.ndarray):
        return np.uint8
    return array.new_empty(0).byte().dtype  # of torch, which this module does not import


def _low_high(left: Any, right: Any) -> tuple[Any, Any]:
    if isinstance(left, np.ndarray):
        return np.minimum(left, right), np.maximum(left, right)
    return left.minimum(right), left.maximum(right)


def _codes(groups: Any, uint8: Any) -> Any:
    """Rank the four by pairwise comparison; `>=` towards the lower index is the tie rule."""

    def beats(i: int, j: int) -> Any:
        return (groups[..., i] >= groups[..., j]).view(uint8)

    b01, b02, b03, b12, b13, b23 = (beats(i, j) for i, j in KEPT_POSITIONS)
    # Wins against the other three: exactly two of the four have two or more.
    keep0 = (b01 + b02 + b03 >= 2).view(uint8)
    keep1 = (1 + b12 + b13 - b01 >= 2).view(uint8)
    keep2 = (2 + b23 - b02 - b12 >= 2).view(uint8)
    keep3 = (3 - b03 - b13 - b23 >= 2).view(uint8)
    second = 3 * keep3 + (1 - keep3) * (1 + keep2)
    # With first f and second s kept, the code is s-1, s+1, s+2 for f = 0, 1, 2.
    return second + (1 - keep0) * (2 - keep1) - keep0
