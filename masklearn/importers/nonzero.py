"""The zeros of a weight, found on its bits."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from masklearn.checkpoint.checkpoint import Checkpoint

__all__ = ["nonzero"]

# By dtype: the unsigned type of its size, and the bits of infinity; NaN has higher ones.
_BITS: dict[str, tuple[type[np.unsignedinteger[Any]], int]] = {
    "F16": (np.uint16, 0x7C00),
    "BF16": (np.uint16, 0x7F80),
    "F32": (np.uint32, 0x7F80_0000),
    "F64": (np.uint64, 0x7FF0_0000_0000_0000),
}


def nonzero(checkpoint: Checkpoint, name: str) -> NDArray[np.bool_]:
    """True where a tensor is neither 0.0 nor -0.0, in the checkpoint's layout. PatchCompileError when it is not finite.

    On the bits, without their sign: no copy in fp32 is made.
    """
    word, infinity = _BITS[checkpoint.entry(name).dtype]
    magnitude = checkpoint.read(name).view(word)
    magnitude &= np.iinfo(word).max >> 1
    if int(magnitude.max()) >= infinity:
        checkpoint.read_finite(name)  # says how many are not
    found: NDArray[np.bool_] = magnitude != 0
    return found
