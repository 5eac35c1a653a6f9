"""Counts zeros in groups of 4 along K."""

import numpy as np
from numpy.typing import NDArray

from masklearn.masks.tiles import GROUP

__all__ = ["zeros_per_group"]


def zeros_per_group(kept: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Returns the number of pruned weights of each 4 consecutive k, uint8 `[N, K/4]`; kept: bool `[N, K]`."""
    quarters = kept.view(np.uint8).reshape(kept.shape[0], -1, GROUP)
    # The four columns are added, because a sum over an axis of length 4 is ten times slower.
    zeros: NDArray[np.uint8] = GROUP - (
        quarters[..., 0] + quarters[..., 1] + quarters[..., 2] + quarters[..., 3]
    )
    return zeros
