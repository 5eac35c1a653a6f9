"""The six 2:4 patterns, and the rule that chooses a pattern by scores."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

# In lexicographic order. A code 0..5 in a mask file is an index into this tuple.
KEPT_POSITIONS: tuple[tuple[int, int], ...] = ((0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3))

PATTERNS: NDArray[np.bool_] = np.zeros((6, 4), dtype=np.bool_)
for _code, _kept in enumerate(KEPT_POSITIONS):
    PATTERNS[_code, list(_kept)] = True
PATTERNS.setflags(write=False)


def patterns_from_scores(scores: Any) -> Any:
    """Returns the patterns that keep the two highest scores of each 4 consecutive k, uint8 codes 0..5 `[..., K/4]`.

    scores: `[..., K]`, numpy or torch, K % 4 == 0, without NaN. The codes are of the same library and on the same
    device.

    Tie rule: of equal scores the **lower k is kept**. Weights on a 4-bit grid tie at the cut in about 15 % of
    groups, so the rule affects quality (baselines: keeping the first index beats keeping the last) and must not
    depend on the order in which a sort leaves equal values. Codes come from comparisons only, so they are equal on
    every machine.
    """
    groups: Any = scores.reshape(*scores.shape[:-1], scores.shape[-1] // 4, 4)
    # torch.uint8, without an import of torch
    uint8 = np.uint8 if isinstance(scores, np.ndarray) else scores.new_empty(0).byte().dtype
    # Comparing with `>=` is the tie rule: lower k wins.
    beats = ((groups[..., i] >= groups[..., j]).view(uint8) for i, j in KEPT_POSITIONS)
    b01, b02, b03, b12, b13, b23 = beats
    # Count wins against the other three: exactly two of the four have two wins or more.
    keep0 = (b01 + b02 + b03 >= 2).view(uint8)
    keep1 = (1 + b12 + b13 - b01 >= 2).view(uint8)
    keep2 = (2 + b23 - b02 - b12 >= 2).view(uint8)
    keep3 = (3 - b03 - b13 - b23 >= 2).view(uint8)
    second = 3 * keep3 + (1 - keep3) * (1 + keep2)
    # If f is the first kept position and s the second, the code is s-1, s+1, s+2 for f = 0, 1, 2.
    return second + (1 - keep0) * (2 - keep1) - keep0
