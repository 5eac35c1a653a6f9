"""Loops over the weights of a quantised linear, compiled by numba: from T(q·s) to q, and the comparison of both.

T is the graph's 16-bit type. `masklearn.quant.grid` defines the values; tests hold these loops to it, weight by weight.
The loops are short and have no branches, so that they become vector instructions.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from masklearn.base.compiled import compiled
from patch_compile.packing.slabs import KEEP

_MOST = np.float32(200)  # beyond the integers of every type: its product is another number than the weight


def find_integers(
    bits: NDArray[np.uint16],
    codes: NDArray[np.uint8],
    scales: NDArray[np.float32],
    dtype: np.dtype[Any],
    integers: NDArray[np.int16],
) -> int:
    """Fill `integers` `[rows, K]`, 0 where 2:4 prunes. Returns the number of kept weights that are not on the grid.

    bits: of 16-bit weights; codes: of the groups of 2:4, `[rows, K/4]`; scales: `[rows, K/span]`; dtype: of the weights.
    """
    return int(_find(bits.view(np.uint32), codes, scales, dtype == np.float16, integers))


def count_other_values(
    integers: NDArray[np.int16],
    scales: NDArray[np.float32],
    bits: NDArray[np.uint16],
    codes: NDArray[np.uint8],
    dtype: np.dtype[Any],
) -> int:
    """Returns the number of weights whose integer and scale stand for other bits than the masked weight has.

    Takes the arguments of `find_integers`. Zeros of both signs are equal.
    """
    return int(_count(integers, scales, bits.view(np.uint32), codes, dtype == np.float16))


@compiled
def _find(
    words: NDArray[np.uint32],
    codes: NDArray[np.uint8],
    scales: NDArray[np.float32],
    half: bool,
    integers: NDArray[np.int16],
) -> int:
    """See `find_integers`. words: pairs of weights; half: True for float16, False for bfloat16."""
    off, columns = 0, integers.shape[1]
    span = columns // scales.shape[1]
    kept, number, product = (
        np.empty(columns, np.uint16),
        np.empty(columns, np.float32),
        np.empty(columns, np.float32),
    )
    for row in range(words.shape[0]):
        _mask(words[row], codes[row], kept.view(np.uint32))
        _widen(kept, half, number.view(np.uint32))
        scale_up = np.float32(2.0**112) if half else np.float32(1)
        for part in range(scales.shape[1]):
            scale = scales[row, part]
            inverse = scale_up / scale if scale != 0 else np.float32(0)
            for column in range(part * span, (part + 1) * span):
                nearest = np.rint(number[column] * inverse)
                nearest = min(max(nearest, -_MOST), _MOST)
                integers[row, column] = np.int16(nearest)
                product[column] = nearest * scale
        off += _differing(product, half, kept)
    return off


@compiled
def _count(
    integers: NDArray[np.int16],
    scales: NDArray[np.float32],
    words: NDArray[np.uint32],
    codes: NDArray[np.uint8],
    half: bool,
) -> int:
    differ, columns = 0, integers.shape[1]
    span = columns // scales.shape[1]
    kept, product = np.empty(columns, np.uint16), np.empty(columns, np.float32)
    for row in range(words.shape[0]):
        _mask(words[row], codes[row], kept.view(np.uint32))
        for part in range(scales.shape[1]):
            scale = scales[row, part]
            for column in range(part * span, (part + 1) * span):
                product[column] = np.float32(integers[row, column]) * scale
        differ += _differing(product, half, kept)
    return int(differ)


@compiled
def _mask(words: NDArray[np.uint32], codes: NDArray[np.uint8], kept: NDArray[np.uint32]) -> None:
    for group in range(codes.shape[0]):
        kept[2 * group] = words[2 * group] & KEEP[codes[group], 0]
        kept[2 * group + 1] = words[2 * group + 1] & KEEP[codes[group], 1]


@compiled
def _widen(kept: NDArray[np.uint16], half: bool, raw: NDArray[np.uint32]) -> None:
    """Fill the fp32 bits of the weights, or, with float16, of the weights times 2^-112."""
    if half:
        for column in range(kept.shape[0]):
            wide = np.uint32(kept[column])
            raw[column] = (wide & np.uint32(0x8000)) << np.uint32(16) | (
                wide & np.uint32(0x7FFF)
            ) << np.uint32(13)
    else:
        for column in range(kept.shape[0]):
            raw[column] = np.uint32(kept[column]) << np.uint32(16)


@compiled
def _differing(product: NDArray[np.float32], half: bool, kept: NDArray[np.uint16]) -> int:
    """Returns the number of products that round, to nearest even, to other bits than `kept`. Spoils the products."""
    differ, raw = np.int32(0), product.view(np.uint32)
    if half:
        for column in range(kept.shape[0]):
            sign, size = raw[column] & np.uint32(0x80000000), raw[column] & np.uint32(0x7FFFFFFF)
            normal = (size + np.uint32(0xFFF) + (size >> np.uint32(13) & np.uint32(1))) - np.uint32(
                0x38000000
            )
            # Subnormal numbers of float16 are multiples of 2^-24.
            small = np.uint32(np.int32(np.rint(abs(product[column]) * np.float32(2.0**24))))
            found = min(normal >> np.uint32(13), np.uint32(0x7C00))
            found = small if size < np.uint32(0x38800000) else found
            both = found | np.uint32(kept[column]) & np.uint32(0x7FFF)
            same = found | sign >> np.uint32(16) == np.uint32(kept[column])
            differ += np.int32(both != 0) & np.int32(not same)
    else:
        for column in range(kept.shape[0]):
            size = raw[column]
            found = size + np.uint32(0x7FFF) + (size >> np.uint32(16) & np.uint32(1)) >> np.uint32(16)
            both = (found | np.uint32(kept[column])) & np.uint32(0x7FFF)
            differ += np.int32(both != 0) & np.int32(found != np.uint32(kept[column]))
    return int(differ)
