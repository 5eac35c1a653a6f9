"""Zeros counted in groups of 4 along K."""

import numpy as np
from numpy.typing import NDArray

from masklearn.masks.tiles import GROUP

__all__ = ["zeros_per_group"]


def zeros_per_group(kept: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """How many of each 4 consecutive k are not kept: bool `[N, K]` to uint8 `[N, K/4]`."""
    quarters = kept.view(np.uint8).reshape(kept.shape[0], -1, GROUP)
    # Added column by column: a sum over an axis of 4 is ten times slower.
    zeros: NDArray[np.uint8] = GROUP - (
        quarters[..., 0] + quarters[..., 1] + quarters[..., 2] + quarters[..., 3]
    )
    return zeros
