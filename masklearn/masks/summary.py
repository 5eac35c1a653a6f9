"""Summarises the sparsity of a MaskSet: the share of pruned tiles, by kind of linear and depth of the block."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from masklearn.masks.name_globs import depth_of, kind_of, short_kinds

__all__ = ["KindShares", "TileShares", "TileSummary", "summarise_tiles"]

_BUCKETS = 10  # this many columns fit a terminal of 80 characters


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class TileShares(_Part):
    """Shares of pruned tiles.

    share: of all tiles; by_depth: of the tiles in each group of blocks. None stands for no tiles; the head is in no
    block.
    """

    share: float | None
    by_depth: tuple[float | None, ...]


class KindShares(TileShares):
    """Shares of one kind of linear. kind: the shortest end of its name that no other kind has; name: the whole name."""

    kind: str
    name: str


class TileSummary(_Part):
    """Shares of pruned tiles of a model. blocks: first and last block of each group of neighbouring blocks."""

    blocks: tuple[tuple[int, int], ...]
    kinds: tuple[KindShares, ...]
    all: TileShares


def summarise_tiles(tile_maps: Mapping[str, NDArray[np.bool_]], buckets: int = _BUCKETS) -> TileSummary:
    """Returns shares of pruned tiles, for a table.

    tile_maps: bool `[grid]` by linear, True for a pruned tile; buckets: largest number of groups of neighbouring blocks,
    which are as equal in size as possible.
    """
    groups = _groups(tile_maps, buckets)
    kinds: dict[str, list[str]] = {}
    for name in tile_maps:
        kinds.setdefault(kind_of(name), []).append(name)
    labels = short_kinds(kinds)
    return TileSummary(
        blocks=tuple((group[0], group[-1]) for group in groups),
        kinds=tuple(
            KindShares(kind=labels[kind], name=kind, **_shares(tile_maps, names, groups))
            for kind, names in kinds.items()
        ),
        all=TileShares(**_shares(tile_maps, list(tile_maps), groups)),
    )


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
