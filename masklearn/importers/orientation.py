"""Masks are published in the layout of the weight they mask, which for a Conv1D is `[K, N]`."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from masklearn.checkpoint.checkpoint import Checkpoint
from masklearn.checkpoint.coverage import Coverage

__all__ = ["model_nonzero", "oriented", "stored_shape"]

# By dtype: the unsigned type of its size, and the bits of infinity; NaN has higher ones.
_BITS: dict[str, tuple[type[np.unsignedinteger[Any]], int]] = {
    "F16": (np.uint16, 0x7C00),
    "BF16": (np.uint16, 0x7F80),
    "F32": (np.uint32, 0x7F80_0000),
    "F64": (np.uint64, 0x7FF0_0000_0000_0000),
}


def stored_shape(coverage: Coverage, name: str) -> tuple[int, int]:
    """Shape of a covered linear's weight in its checkpoint."""
    rows, columns = coverage.linears[name]
    return (columns, rows) if name in coverage.transposed else (rows, columns)


def oriented(coverage: Coverage, name: str, stored: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """A mask in the layout of the checkpoint as `[N, K]`."""
    return np.ascontiguousarray(stored.T) if name in coverage.transposed else stored


def model_nonzero(checkpoint: Checkpoint, coverage: Coverage, name: str) -> NDArray[np.bool_]:
    """Where the weight of a covered linear is neither 0.0 nor -0.0, `[N, K]`. PatchCompileError when it is not finite.

    On the bits, without their sign: no copy in fp32 is made.
    """
    entry = checkpoint.entry(f"{name}.weight")
    word, infinity = _BITS[entry.dtype]
    magnitude = checkpoint.read(f"{name}.weight").view(word)
    magnitude &= np.iinfo(word).max >> 1
    if int(magnitude.max()) >= infinity:
        checkpoint.read_finite(f"{name}.weight")  # says how many are not
    return oriented(coverage, name, magnitude != 0)
