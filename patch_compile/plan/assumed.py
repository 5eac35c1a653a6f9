"""Plans where no masks are learned yet: of each linear, as many tiles as its ratio makes are 2:4, at random places."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

import numpy as np

from masklearn.masks.linear_mask import LinearMask
from masklearn.masks.tiles import grid_shape, sparse_groups
from patch_compile.plan.cost import CostModel
from patch_compile.plan.lowering import LinearPlan, plan_linear
from patch_compile.plan.lowering_patterns import Asked, asked_lowerings

__all__ = ["assumed_mask", "assumed_plans"]

Shape = tuple[int, int]


def assumed_plans(
    linears: Mapping[str, Shape],
    tile: Shape,
    ratios: Mapping[str, float],
    lowering: str,
    costs: CostModel,
) -> dict[str, LinearPlan]:
    """The plan of every linear `[N, K]` at its ratio; lowering: as `--lowering` spells it."""
    asked = asked_lowerings(lowering, list(linears))
    return {
        name: _plan_of(shape, tile, ratios[name], asked[name], costs).named(name)
        for name, shape in linears.items()
    }


def assumed_mask(shape: Shape, tile: Shape, ratio: float) -> LinearMask:
    """Of a linear `[N, K]`: 2·ratio of its tiles are 2:4, to one; every group keeps its first two weights."""
    grid = grid_shape(shape, tile)
    tiles = np.zeros(grid[0] * grid[1], np.bool_)
    tiles[: round(2 * ratio * tiles.size)] = True
    tiles = np.random.default_rng(0).permutation(tiles).reshape(grid)
    return LinearMask(shape, tile, tiles, np.zeros(sparse_groups(tiles, shape, tile), np.uint8))


@lru_cache(maxsize=4096)
def _plan_of(shape: Shape, tile: Shape, ratio: float, asked: Asked, costs: CostModel) -> LinearPlan:
    """Of any linear of this shape: there are few shapes and many linears."""
    return plan_linear("", assumed_mask(shape, tile, ratio), asked, costs)
