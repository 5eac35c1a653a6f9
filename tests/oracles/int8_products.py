"""The arithmetic of w8a8, step by step, with numpy: inputs rounded to int8 by token, exact sums, and their scales.

It shares no code with patch_compile and masklearn.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

LEAST = np.float32(2.0**-100)
"""A token whose inputs are all smaller counts as zeros."""


def quantise_inputs(x: NDArray[Any]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Returns the integers of X `[…, K]` and the scale of each token, `[…]`. X: of any floating-point type.

    The scale of a token with an infinity or a NaN is NaN, and its integers are 0.
    """
    exact = x.astype(np.float32)
    sound = np.isfinite(exact).all(-1)
    largest = np.abs(np.where(sound[..., None], exact, 0)).max(-1, initial=0).astype(np.float32)
    reached = largest >= LEAST
    inverse = np.where(reached, np.float32(127) / np.where(reached, largest, 1), 0).astype(np.float32)
    finite = np.where(sound[..., None], exact, np.float32(0))
    nearest = np.rint(finite * inverse[..., None])  # rint takes the even neighbour
    scale = np.where(sound, largest / np.float32(127), np.float32(np.nan)).astype(np.float32)
    return np.clip(nearest, -127, 127).astype(np.int8), scale


def exact_sums(inputs: NDArray[np.int8], integers: NDArray[np.int8]) -> NDArray[np.int32]:
    """Returns Σ inputs · integers over K, `[…, N]`; integers: of the weight, `[N, K]`."""
    sums = inputs.astype(np.int64) @ integers.astype(np.int64).T
    assert np.abs(sums).max(initial=0) < 2**31
    return sums.astype(np.int32)


def scaled(
    sums: NDArray[np.int32], of_rows: NDArray[np.float32], of_tokens: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Returns (float(sum) · scale of the row) · scale of the token, each rounded to fp32."""
    products = sums.astype(np.float32) * of_rows
    found: NDArray[np.float32] = products * of_tokens[..., None]
    return found


def product(x: NDArray[Any], integers: NDArray[np.int8], of_rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """Returns the product of X `[…, K]` and a weight `[N, K]` before bias and activation, fp32 `[…, N]`."""
    inputs, of_tokens = quantise_inputs(x)
    return scaled(exact_sums(inputs, integers), of_rows, of_tokens)
