"""Draws tile maps in a grid, with a row for each kind of linear and a column for each block.

A cell has an SVG path for each of its kinds of pruned tiles. Neighbouring tiles of a kind are one rectangle, `M4 7h3v1h-3z`,
so that the maps of a model of 7B weights take about a megabyte. The view box cuts off the tiles that the last row or column
cuts off. Lines as wide as a tile would be shorter, but browsers draw lines thinner than a pixel too pale, and areas right.
2:4 and 6:8 have a hue, n:16 has another, and a kind is the paler the more weights it keeps: print and colour-blind readers
see the lightness.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from masklearn.masks.kinds.table import DENSE, PRUNED, TWO_FOUR
from masklearn.masks.maskset import MaskSet
from masklearn.masks.name_globs import depth_of, kind_of, short_kinds
from masklearn.masks.tiles import spell_tile, tile_weights
from patch_compile.report.number_format import percent, shape_of

_TALLEST, _FLATTEST = 2.5, 0.2  # largest and smallest height over width of a map that is drawn to scale
_HEIGHT = 2.0  # height of the tallest map, in widths of a column


@dataclass(frozen=True)
class TileMap:
    """The map of one linear.

    size: columns and rows in tiles, with fractions for tiles that are cut off; paths: kind and path of the tiles of each
    kind that prunes; width, height: size of the drawing, in widths of a column of the page; share: of weights in such tiles;
    about: the linear's line in words.
    """

    name: str
    shape: tuple[int, int]
    tile: tuple[int, int]
    size: tuple[float, float]
    paths: tuple[tuple[str, str], ...]
    width: float
    height: float
    share: float
    about: str


def tile_maps(masks: MaskSet) -> dict[str, Any] | None:
    """Returns the maps by kind and depth for the template, or None without masks.

    They are {depths, rows: [{kind, name, share, cells: [[TileMap, …], …]}], all: share by depth, squeezed, kinds}. share:
    share of weights in tiles that are pruned; kinds: their names, in the table's order. Linears outside the blocks, such as
    the head, are in the column of depth None.
    """
    shapes, sizes = masks.shapes(), masks.tile_sizes()
    maps = [_map(name, shapes[name], sizes[name], codes) for name, codes in masks.kind_maps().items()]
    if not maps:
        return None
    by_depth: dict[int | None, list[TileMap]] = {}
    kinds: dict[str, list[TileMap]] = {}
    for tile_map in maps:
        by_depth.setdefault(depth_of(tile_map.name), []).append(tile_map)
        kinds.setdefault(kind_of(tile_map.name), []).append(tile_map)
    depths = sorted(by_depth, key=lambda depth: math.inf if depth is None else depth)
    labels = short_kinds(kinds)
    rows = [
        {
            "kind": labels[kind],
            "name": kind,
            "share": _share(alike),
            "cells": [[one for one in by_depth[depth] if kind_of(one.name) == kind] for depth in depths],
        }
        for kind, alike in kinds.items()
    ]
    squeezed = any(not _FLATTEST <= tile_map.shape[0] / tile_map.shape[1] <= _TALLEST for tile_map in maps)
    present = {name for tile_map in maps for name, _ in tile_map.paths} or {TWO_FOUR.name}
    return {
        "depths": depths,
        "rows": rows,
        "all": [_share(by_depth[depth]) for depth in depths],
        "share": _share(maps),
        "squeezed": squeezed,
        "kinds": [name for name in PRUNED if name in present],
    }


def tile_path(tiles: NDArray[np.bool_]) -> str:
    """Returns the true tiles of a map `[rows, columns]` as rectangles that do not overlap, empty for none."""
    path: list[str] = []
    # Runs that continue from the row above, and the row where each began.
    begun: dict[tuple[int, int], int] = {}
    for y, row in enumerate([*tiles, np.zeros(tiles.shape[1], np.bool_)]):
        runs = set(_runs(row))
        for start, end in [run for run in begun if run not in runs]:
            top = begun.pop((start, end))
            path.append(f"M{start} {top}h{end - start}v{y - top}h{start - end}z")
        begun |= {run: y for run in runs if run not in begun}
    return "".join(path)


def _runs(row: NDArray[np.bool_]) -> Iterator[tuple[int, int]]:
    """Yield the first column of each run of true neighbours, and the column after its last."""
    edges = np.flatnonzero(np.diff(row.astype(np.int8), prepend=0, append=0)).tolist()
    yield from zip(edges[::2], edges[1::2], strict=True)


def _map(name: str, shape: tuple[int, int], tile: tuple[int, int], codes: NDArray[np.uint8]) -> TileMap:
    areas, pruned = tile_weights(shape, tile), codes != DENSE.code
    share = float(areas[pruned].sum() / areas.sum())
    counts = {kind.name: int((codes == kind.code).sum()) for kind in PRUNED.values()}
    present = {name: count for name, count in counts.items() if count}
    paths = tuple((kind, tile_path(codes == PRUNED[kind].code)) for kind in present)
    size = (shape[1] / min(tile[1], shape[1]), shape[0] / min(tile[0], shape[0]))
    tall = min(max(shape[0] / shape[1], _FLATTEST), _TALLEST)
    width = min(1.0, _HEIGHT / tall)
    counted = ", ".join(f"{count} {kind}" for kind, count in present.items()) or f"0 {TWO_FOUR}"
    about = (
        f"{name}, {shape_of(shape)} in tiles of {spell_tile(tile)}: {counted} of {codes.size} tiles, "
        f"{percent(share)} of its weights"
    )
    return TileMap(name, shape, tile, size, paths, width, width * tall, share, about)


def _share(maps: Sequence[TileMap]) -> float | None:
    weights = [math.prod(tile_map.shape) for tile_map in maps]
    pruned = sum(tile_map.share * n for tile_map, n in zip(maps, weights, strict=True))
    return pruned / sum(weights) if weights else None
