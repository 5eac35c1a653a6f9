"""Scores and a budget to tile maps: global over all linears, exact to less than one tile, deterministic."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from masklearn.errors import PatchCompileError

__all__ = ["check_ratio", "select"]


def check_ratio(ratio: float) -> None:
    """PatchCompileError outside 0 ... 0.5."""
    if not 0.0 <= ratio <= 0.5:
        raise PatchCompileError(
            f"Ratio {ratio} is outside 0 ... 0.5",
            "It is zeroed weights / weights; with every tile 2:4 half of the weights are zeroed.",
            "Give a ratio between 0 (dense) and 0.5 (uniform 2:4).",
        )


def select(
    scores: Mapping[str, NDArray[np.floating]], weights: Mapping[str, NDArray[np.int64]], ratio: float
) -> dict[str, NDArray[np.bool_]]:
    """Make the tiles 2:4 that cost least per zeroed weight, until `ratio` of all weights is zeroed.

    scores: name to `[grid]`, what turning the tile sparse costs; weights: name to `[grid]`, weights in the
    tile (`tiles.tile_weights`; ragged tiles hold fewer). Returns name to bool `[grid]`, True = 2:4.

    The number of tiles is the one that comes nearest to the ratio, so |reached - asked| * total is at most
    a quarter of one tile's weights; 0 and 0.5 are met exactly. Ties go to the linear that comes first in
    `scores`, then to the lower row, then to the lower column of tiles.
    """
    check_ratio(ratio)
    if not scores:
        return {}
    cost = np.concatenate([np.asarray(grid, dtype=np.float64).ravel() for grid in scores.values()])
    area = np.concatenate([weights[name].ravel() for name in scores])
    _check_finite(scores)
    order = np.argsort(cost / area, kind="stable")
    zeroed_twice = np.concatenate(([0], np.cumsum(area[order])))  # a sparse tile zeroes half of its weights
    wanted_twice = 2.0 * ratio * float(area.sum())
    count = int(np.abs(zeroed_twice - wanted_twice).argmin())
    chosen = np.zeros(cost.size, dtype=np.bool_)
    chosen[order[:count]] = True
    return _unflatten(chosen, scores)


def _check_finite(scores: Mapping[str, NDArray[np.floating]]) -> None:
    for name, grid in scores.items():
        if not bool(np.isfinite(grid).all()):
            raise ValueError(f"a tile score of {name} is not finite")


def _unflatten(
    chosen: NDArray[np.bool_], like: Mapping[str, NDArray[np.floating]]
) -> dict[str, NDArray[np.bool_]]:
    maps, start = {}, 0
    for name, grid in like.items():
        maps[name] = chosen[start : start + grid.size].reshape(grid.shape)
        start += grid.size
    return maps
