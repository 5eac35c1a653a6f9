"""Summarises the sparsity of a MaskSet: the share of 2:4 tiles, by kind of linear and depth of the block."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from masklearn.masks.names import depth_of, kind_of, short_kinds

__all__ = ["summarise_tiles"]

_BUCKETS = 10  # this many columns fit a terminal of 80 characters


def summarise_tiles(tile_maps: Mapping[str, NDArray[np.bool_]], buckets: int = _BUCKETS) -> dict[str, Any]:
    """Returns shares of 2:4 tiles, for a table or JSON.

    tile_maps: bool `[grid]` by linear, see `MaskSet.tile_maps`; buckets: largest number of groups of neighbouring blocks,
    which are as equal in size as possible. The result is {"blocks": [[first, last], …], "kinds": [{"kind", "name", "share",
    "by_depth": [share or None, …]}, …], "all": {"share", "by_depth"}}. "kind" is the shortest end of the name that no
    other kind has. None stands for a group of blocks without such a linear; the head is in no block.
    """
    groups = _groups(tile_maps, buckets)
    kinds: dict[str, list[str]] = {}
    for name in tile_maps:
        kinds.setdefault(kind_of(name), []).append(name)
    labels = short_kinds(kinds)
    rows = [
        {"kind": labels[kind], "name": kind, **_shares(tile_maps, names, groups)}
        for kind, names in kinds.items()
    ]
    blocks = [[group[0], group[-1]] for group in groups]
    return {"blocks": blocks, "kinds": rows, "all": _shares(tile_maps, list(tile_maps), groups)}


def _groups(names: Mapping[str, Any], buckets: int) -> list[list[int]]:
    depths = sorted({depth for name in names if (depth := depth_of(name)) is not None})
    if not depths:
        return []
    return [part.tolist() for part in np.array_split(depths, min(buckets, len(depths)))]


def _shares(
    tile_maps: Mapping[str, NDArray[np.bool_]], names: Sequence[str], groups: Sequence[Sequence[int]]
) -> dict[str, Any]:
    by_depth = [_share(tile_maps, [name for name in names if depth_of(name) in group]) for group in groups]
    return {"share": _share(tile_maps, names), "by_depth": by_depth}


def _share(tile_maps: Mapping[str, NDArray[np.bool_]], names: Sequence[str]) -> float | None:
    tiles = sum(tile_maps[name].size for name in names)
    return sum(int(tile_maps[name].sum()) for name in names) / tiles if tiles else None
