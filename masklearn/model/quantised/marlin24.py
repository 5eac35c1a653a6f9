"""Decodes weights in the layout of the kernel Marlin-24: 2:4 integers of 4 or 8 bits, in the order in which it loads them.

A weight [N, K] is two tensors. `words` int32 [K/32, N·bits/2] hold the K/2 kept integers of each row, plus 2^(bits-1), the
lowest bits first: tiles of 16 kept integers and 16 rows, and in each 4 tiles the 1024 integers in the order of `_order`.
`meta` int16 [K/32, 2N] hold the 2-bit places of the two kept integers of each 4, in the order of CUTLASS's metadata. See
compressed_tensors/compressors/marlin_24 of release 0.14 of https://github.com/vllm-project/compressed-tensors, and
tools/util/include/cutlass/util/host_reorder.h of CUTLASS.
"""

import numpy as np
from numpy.typing import NDArray

from masklearn.masks.tiles import GROUP

ROWS, COLUMNS = 64, 32
"""N and K are multiples of these."""
_TILE = 16
_INTERLEAVED = {4: (0, 2, 4, 6, 1, 3, 5, 7), 8: (0, 2, 1, 3)}
_SCALES = (0, 4, 1, 5, 2, 6, 3, 7)  # order of 8 neighbours


def decode(fields: NDArray[np.int8], meta: NDArray[np.int16], bits: int) -> NDArray[np.int8]:
    """Returns integers [N, K]. fields: the integers of the words, without their offset, int8 [K/32, 16·N].

    Raises ValueError if the places of two integers are out of order.
    """
    steps, n = fields.shape[0], fields.shape[1] // _TILE
    tiles = np.empty((fields.size // 1024, 1024), np.int8)
    tiles[:, _order(bits)] = fields.reshape(tiles.shape)
    rows = tiles.reshape(steps, n // _TILE, _TILE, _TILE).transpose(1, 3, 0, 2)
    kept = rows.reshape(n, -1, 2)
    packed = meta.ravel().view(np.uint16)[_metadata_places(n, 2 * steps)]
    codes = (packed[..., None] >> np.array([0, 4, 8, 12], np.uint16)).astype(np.uint8).reshape(n, -1)
    places = np.stack((codes & 3, codes >> 2 & 3), axis=-1)
    if (places[..., 0] >= places[..., 1]).any():
        raise ValueError("Two integers of a group have the same place, or are out of order.")
    dense = np.zeros((n, kept.shape[1], GROUP), np.int8)
    np.put_along_axis(dense, places.astype(np.intp), kept, axis=-1)
    return dense.reshape(n, -1)


def decode_scales(scales: NDArray[np.float32], k: int, size: int) -> NDArray[np.float32]:
    """Returns scales [N, groups] of the stored [groups, N]. size: columns of a group; the library counts kept columns, so
    groups of half of K or more have the order of the rows."""
    if size >= k // 2:
        return np.ascontiguousarray(scales.T)
    ordered = np.empty_like(scales).reshape(-1, len(_SCALES))
    ordered[:, _SCALES] = scales.reshape(ordered.shape)
    return np.ascontiguousarray(ordered.reshape(scales.shape).T)


def _order(bits: int) -> NDArray[np.intp]:
    """Returns the places in 4 tiles [4 tiles, 16 kept, 16 rows] of the integers in the order in which a warp loads them."""
    lane, j, block, pair, odd = np.ogrid[:32, :4, :2, :2, :2]
    kept = 2 * (lane % 4 + 4 * pair) + odd
    order = _TILE * kept + 256 * (lane // 8) + 8 * (lane // 4 % 2) + 4 * block + j
    interleaved = order.reshape(-1, len(_INTERLEAVED[bits]))[:, _INTERLEAVED[bits]]
    return np.asarray(interleaved.ravel(), np.intp)


def _metadata_places(n: int, words: int) -> NDArray[np.intp]:
    """Returns where the metadata word of a row and 16 columns is stored, [N, words]."""
    row, word = np.ogrid[:n, :words]
    row = row // 64 * 64 + row % 2 * 2 + row % 8 // 4 + row % 4 // 2 * 32 + row % 64 // 8 * 4
    # The two words off the diagonal of each 2x2 block are swapped.
    swap = ((row % 2 == 0) & (word % 2 == 1)).astype(np.intp) - ((row % 2 == 1) & (word % 2 == 0))
    row, word = row + swap, word - swap
    return np.asarray(word // 2 * n * 2 + row * 2 + word % 2, np.intp)
