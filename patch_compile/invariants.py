"""The rules that keep a packed linear valid (design: PatchLinear). A breach is our fault, never the user's."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from masklearn.maskset import LinearMask
from masklearn.prune import masked_weight
from patch_compile.errors import InvariantError
from patch_compile.packing import PackedLinear, unpack

__all__ = ["check_packed"]


def check_packed(name: str, packed: PackedLinear, weight: NDArray[np.uint16], mask: LinearMask) -> None:
    """Decode the packed tensors and compare with `W∘M: [N, K]` bit for bit.

    The decoding itself fails when a slab is stored twice or not at all, or when metadata are not 2:4; equality
    then says that every weight is there once and that exactly the weights under the mask are zeroed. Raises
    InvariantError with the linear's name.
    """
    try:
        decoded = unpack(packed)
    except ValueError as error:
        raise InvariantError(f"{name}: {error}") from error
    expected = masked_weight(weight, mask.keep())
    if not np.array_equal(decoded, expected):
        wrong = int((decoded != expected).sum())
        raise InvariantError(f"{name}: {wrong} weights decode to other bits than those of the masked weight")
