"""Finds the zeros of a weight from its bits."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from masklearn.model.checkpoint import Checkpoint

__all__ = ["nonzero"]

# For each dtype the unsigned type of its size, and the bits of infinity. The bits of NaN are larger.
_BITS: dict[str, tuple[type[np.unsignedinteger[Any]], int]] = {
    "F16": (np.uint16, 0x7C00),
    "BF16": (np.uint16, 0x7F80),
    "F32": (np.uint32, 0x7F80_0000),
    "F64": (np.uint64, 0x7FF0_0000_0000_0000),
}


def nonzero(checkpoint: Checkpoint, name: str) -> NDArray[np.bool_]:
    """Returns a bool array in the checkpoint's layout, False for 0.0 and -0.0.

    It compares bits without the sign, which needs no fp32 copy. Raises MaskLearnError if a weight is not finite.
    """
    word, infinity = _BITS[checkpoint.entry(name).dtype]
    magnitude = checkpoint.read(name).view(word)
    magnitude &= np.iinfo(word).max >> 1
    if int(magnitude.max()) >= infinity:
        checkpoint.read_finite(name)  # raises the error, with the number of weights that are not finite
    found: NDArray[np.bool_] = magnitude != 0
    return found
