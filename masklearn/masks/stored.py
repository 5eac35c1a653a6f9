"""Mask files: metadata, and the tensors of a linear.

| tensor | content |
|---|---|
| `.tiles` | uint8, numpy `packbits(bitorder="little")` of the row-major map of 2:4 tiles |
| `.kinds` | uint8 `[grid]`, codes of `kinds.table` |
| `.pattern` | uint8, one nibble (0 … 5) per group of 4 in the 2:4 tiles, row-major, low nibble first |
| `.mask16` | uint16, one code per group of 16 in n:16 tiles |
| `.mask8` | uint8, one code per group of 8 in 6:8 tiles |
| `.scales` | fp32 of a quantised linear, `[N]` for int8 and w8a8 and `[N, K/64]` for int4, see `quant.grid` |
| `.order` | int32, order of hidden channels, see `MaskSet.orders` |
| `.rows`, `.columns` | int8 of a tensor of the model, exponents of its channels that were smoothed, see `MaskSet.folds` |

The metadata `linears` have the shape, tile and weight type of each linear, and `activations`: its static scales, if any.
Every linear has `.tiles` and `.pattern` if the set is plain (see `MaskSet.plain`), else `.kinds`, `.pattern` and `.mask16`,
and `.mask8` too if the set has 6:8 tiles.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from masklearn.base.errors import MaskLearnError
from masklearn.base.shard import Shard
from masklearn.masks.kinds.base import Family
from masklearn.masks.kinds.table import DENSE, FAMILIES, TWO_FOUR
from masklearn.masks.linear_mask import LinearMask, check_kinds, kinds_of_tiles, tiles_of
from masklearn.masks.tiles import check_tile, grid_shape, sparse_groups, tile_weights
from masklearn.quant.grid import Grid, StaticScales
from masklearn.quant.table import QUANTISED

FORMAT = "patch-compile.masks"
"""Value of `format` in the metadata of a mask file."""
VERSION = "1"
PLAIN, MIXED, WITH_SIX_EIGHT = (
    ("tiles", "pattern"),
    ("kinds", "pattern", "mask16"),
    ("kinds", "pattern", "mask16", "mask8"),
)
"""Ends of the names of a linear's tensors, see above."""

ROWS, COLUMNS = ".rows", ".columns"
"""Ends of the names of `MaskSet.folds`."""

_OF_SIXTEEN, _OF_EIGHT = FAMILIES["n:16"], FAMILIES["6:8"]
_Specs = dict[str, tuple[str, tuple[int, ...]]]


@dataclass(frozen=True)
class Stored:
    """Mask whose patterns are still in the file. others: see `LinearMask`."""

    shape: tuple[int, int]
    tile: tuple[int, int]
    tiles: NDArray[np.bool_]
    others: NDArray[np.uint8] | None = None

    @property
    def kinds(self) -> NDArray[np.uint8]:
        """Codes of the kinds of all tiles, `[grid]`."""
        return kinds_of_tiles(self.tiles, self.others)

    def read(self, shard: Shard, name: str) -> LinearMask:
        """Read the patterns. Raises ValueError if they do not fit the tiles."""
        groups = sparse_groups(self.tiles, self.shape, self.tile)
        pattern = _from_nibbles(shard.read(f"{name}.pattern"), groups)
        if self.others is None:
            return LinearMask(self.shape, self.tile, self.tiles, pattern)
        mask16 = shard.read(f"{name}.mask16").astype(np.uint16, copy=False)
        mask8 = shard.read(f"{name}.mask8") if has_six_eight(self) else np.zeros(0, np.uint8)
        return LinearMask(self.shape, self.tile, self.tiles, pattern, self.others, mask16, mask8)


def has_six_eight(mask: LinearMask | Stored) -> bool:
    return mask.others is not None and bool(tiles_of(mask.others, _OF_EIGHT).any())


def specs_of(name: str, mask: LinearMask | Stored, parts: tuple[str, ...]) -> _Specs:
    """Returns (dtype code, shape) of the tensors of a linear whose names end with these parts."""
    specs = {
        "tiles": ("U8", (-(-mask.tiles.size // 8),)),
        "kinds": ("U8", mask.tiles.shape),
        "pattern": ("U8", (-(-sparse_groups(mask.tiles, mask.shape, mask.tile) // 2),)),
        "mask16": ("U16", (_groups(mask, _OF_SIXTEEN),)),
        "mask8": ("U8", (_groups(mask, _OF_EIGHT),)),
    }
    return {f"{name}.{part}": specs[part] for part in parts}


def stored_mask(shard: Shard, name: str, about: Mapping[str, Any]) -> Stored:
    """Check a linear's metadata against its tensors. Raises ValueError if they do not fit together."""
    size, tile = (about["shape"][0], about["shape"][1]), (about["tile"][0], about["tile"][1])
    if not all(type(side) is int for side in (*size, *tile)):
        raise ValueError(f"{name} has the shape {size} and the tile {tile}")
    check_tile(size, tile)
    parts: tuple[str, ...] = PLAIN
    if f"{name}.tiles" in shard.tensors:
        stored = _tiles(shard, name, size, tile)
    else:
        stored = _kinds(shard, name, size, tile)
        eights = f"{name}.mask8" in shard.tensors or has_six_eight(stored)
        parts = WITH_SIX_EIGHT if eights else MIXED
    for tensor, (dtype, shape) in specs_of(name, stored, parts).items():
        entry = shard.tensors[tensor]
        if entry.shape != shape:
            raise ValueError(f"{tensor} is {list(entry.shape)}, its tiles need {list(shape)}")
        if entry.dtype != dtype:
            raise ValueError(f"{tensor} is {entry.dtype}, its type is {dtype}")
    return stored


def _tiles(shard: Shard, name: str, shape: tuple[int, int], tile: tuple[int, int]) -> Stored:
    grid = grid_shape(shape, tile)
    bits = shard.read(f"{name}.tiles")
    if bits.dtype != np.uint8 or bits.shape != (-(-grid[0] * grid[1] // 8),):
        raise ValueError(f"{name}.tiles is {list(bits.shape)} {bits.dtype} for {grid[0]}x{grid[1]} tiles")
    tiles = np.unpackbits(bits, count=grid[0] * grid[1], bitorder="little").astype(np.bool_).reshape(grid)
    return Stored(shape, tile, tiles)


def _kinds(shard: Shard, name: str, shape: tuple[int, int], tile: tuple[int, int]) -> Stored:
    entry, grid = shard.tensors[f"{name}.kinds"], grid_shape(shape, tile)
    if entry.dtype != "U8" or entry.shape != grid:
        raise ValueError(f"{name}.kinds is {list(entry.shape)} {entry.dtype} for {grid[0]}x{grid[1]} tiles")
    kinds = shard.read(f"{name}.kinds")
    check_kinds(kinds, shape, tile)
    tiles = kinds == TWO_FOUR.code
    return Stored(shape, tile, tiles, np.where(tiles, np.uint8(DENSE.code), kinds))


def _groups(mask: LinearMask | Stored, family: Family) -> int:
    if mask.others is None:
        return 0
    return int(tile_weights(mask.shape, mask.tile)[tiles_of(mask.others, family)].sum()) // family.group


def to_nibbles(codes: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Pack two codes per byte, low nibble first. The last high nibble is 0 if the number of codes is odd."""
    even = np.append(codes, np.uint8(0)) if codes.size % 2 else codes
    return even[0::2] | (even[1::2] << np.uint8(4))


def _from_nibbles(packed: NDArray[np.uint8], count: int) -> NDArray[np.uint8]:
    codes = np.empty(packed.size * 2, dtype=np.uint8)
    codes[0::2] = packed & 0xF
    codes[1::2] = packed >> 4
    return codes[:count]


def finite_ratio(text: str) -> float:
    """Returns the ratio that was asked for. Raises ValueError if it is not a finite number."""
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"ratio_asked is {number}")
    return number


def stored_grid(shard: Shard, name: str, about: Mapping[str, Any]) -> Grid:
    """Read the grid of a quantised linear. Raises KeyError or ValueError if the file does not hold one."""
    if about["weights"] not in QUANTISED:
        raise ValueError(f"{name} has the weight type {about['weights']!r}, none of {', '.join(QUANTISED)}")
    weights, tensor = QUANTISED[about["weights"]], f"{name}.scales"
    entry, needed = shard.tensors[tensor], weights.scales_shape((about["shape"][0], about["shape"][1]))
    if (entry.dtype, entry.shape) != ("F32", needed):
        raise ValueError(f"{tensor} is {entry.dtype} {list(entry.shape)}, {weights} needs F32 {list(needed)}")
    stated = about.get("activations")
    activations = None if stated is None else StaticScales.model_validate(stated)
    return Grid(weights, shard.read(tensor), activations)


def stored_orders(shard: Shard) -> dict[str, NDArray[np.int32]]:
    """Read the orders of hidden channels. Raises ValueError if an order is not a permutation."""
    names = [tensor for tensor in shard.tensors if tensor.endswith(".order")]
    orders = {name.removesuffix(".order"): shard.read(name) for name in names}
    for name, order in orders.items():
        if order.dtype != np.int32 or not np.array_equal(np.sort(order), np.arange(len(order))):
            raise ValueError(f"{name}.order is not a permutation")
    return orders


def stored_folds(shard: Shard) -> dict[str, NDArray[np.int8]]:
    """Read the exponents of scaled channels (see `MaskSet.folds`). Raises ValueError if they are not of int8."""
    folds = {tensor: shard.read(tensor) for tensor in shard.tensors if tensor.endswith((ROWS, COLUMNS))}
    for tensor, exponents in folds.items():
        if exponents.dtype != np.int8 or exponents.ndim != 1:
            raise ValueError(f"{tensor} is not a list of exponents")
    return folds


def check_format(path: Path, shard: Shard) -> None:
    """Raise MaskLearnError for another file, and for another version of the format."""
    if shard.metadata.get("format") != FORMAT:
        raise MaskLearnError(
            f"{path} is not a mask file",
            "It is a safetensors file of another kind.",
            "Give a masks.safetensors.",
        )
    version = shard.metadata.get("version")
    if version != VERSION:
        raise MaskLearnError(
            f"{path} has mask format version {version}",
            f"This release reads version {VERSION}.",
            "Update patch-compile, or learn the masks again.",
        )


def damaged(path: Path, why: str) -> MaskLearnError:
    """Returns the error for a file that contradicts its metadata."""
    return MaskLearnError(f"{path} is damaged", why, "Learn the masks again or restore the file.")
