"""Solves surviving weights for the final masks, group by group of linears that share their inputs, and rounds quantised
linears."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from masklearn.feed import SCALES, CodeArrays, Feed, Group, Replaced
from masklearn.masks.linear_mask import LinearMask
from masklearn.model.store import WeightStore
from masklearn.quant.grid import Grid
from masklearn.solvers import obs
from masklearn.solvers.projection import Codes, Projection
from masklearn.solvers.rounding import check_range, round_group, round_nearest


class Solver(Protocol):
    """Function that solves the weights of a group: `alps.solve_group` or `obs.solve_group`."""

    def __call__(
        self,
        group: Group,
        allowed: Mapping[str, Projection],
        given: Mapping[str, Codes] | None,
        damping: float,
        note: Callable[[str], object],
    ) -> Mapping[str, tuple[torch.Tensor, Codes]]:
        """Returns new values `[N, K]`, in which pruned weights are 0, and codes of all groups, by name.

        allowed: the masks that the tiles allow, by name; given: codes to use, None to choose them; damping, note: arguments
        of `obs.with_damping`, whose errors are raised.
        """


@dataclass(frozen=True, eq=False)
class SolvedLinears:
    """Result of a solve. codes: codes of all groups by linear; grids: grids of the quantised linears."""

    codes: dict[str, CodeArrays]
    grids: dict[str, Grid]


def solve(
    feed: Feed,
    kinds: Mapping[str, NDArray[np.uint8]],
    store: WeightStore,
    solver: Solver,
    codes: Mapping[str, CodeArrays] | None = None,
) -> SolvedLinears:
    """Solve the weights of all linears for given kinds of tiles, and round quantised linears.

    kinds: codes of the kinds `[grid]` by linear; store: receives the new weights; codes: codes of groups to use, None to let
    the solver choose them. Raises MaskLearnError as `obs.with_damping`, `rounding.round_group` and the feed do.
    """

    def prune(group: Group) -> dict[str, Replaced]:
        device, tile = group.moment.device, feed.recipe.tile
        allowed = {
            name: Projection.of_tiles(kinds[name], feed.shapes[name], tile, device) for name in group.weights
        }
        given = None
        if codes is not None:
            given = {name: Codes.of_families(codes[name], device) for name in group.weights}
        solved = solver(group, allowed, given, group.damping, feed.note)
        kept = {
            name: (values, allowed[name].keep(chosen))
            for name, (values, chosen) in solved.items()
            if name in feed.types
        }
        replaced = {name: Replaced(values, chosen.by_family()) for name, (values, chosen) in solved.items()}
        return replaced | _rounded(feed, group, kept, replaced)

    total = hashlib.sha256()
    for name, grid in sorted(kinds.items()):
        total.update(f"{name} {grid.shape}".encode() + grid.tobytes())
    for name, own in sorted((codes or {}).items()):
        total.update(name.encode() + b"".join(own[family].tobytes() for family in sorted(own)))
    arrays = feed.replace(prune, store, f"{solver.__module__} {total.hexdigest()}")
    all_codes: dict[str, CodeArrays] = {
        name: {family: array for family, array in own.items() if family != SCALES}
        for name, own in arrays.items()
    }
    return SolvedLinears(all_codes, _grids(feed, arrays))


def round_weights(feed: Feed, masks: Mapping[str, LinearMask], store: WeightStore) -> dict[str, Grid]:
    """Round the weights of quantised linears under their masks, on their inputs after earlier linears are rounded.

    store: receives the new weights. Returns the grids. Raises MaskLearnError as `solve` does.
    """

    def round_those(group: Group) -> dict[str, Replaced]:
        kept, weights = {}, {}
        for name, weight in group.weights.items():
            keep = torch.from_numpy(masks[name].keep()).to(weight.device)
            weights[name] = weight * keep
            kept[name] = weights[name], keep
        types = {name: one for name, one in kept.items() if name in feed.types}
        replaced = {name: Replaced(values, {}) for name, values in weights.items()}
        return replaced | _rounded(feed, replace(group, weights=weights), types, replaced)

    total = hashlib.sha256()
    for name, mask in masks.items():
        total.update(name.encode() + mask.keep().tobytes())
    return _grids(feed, feed.replace(round_those, store, f"rounding {total.hexdigest()}", "rounding"))


def round_without_inputs(feed: Feed, masks: Mapping[str, LinearMask], store: WeightStore) -> dict[str, Grid]:
    """Round each kept weight of quantised linears to the nearest number of its grid, and put the weights in `store`.

    Returns the grids.
    """
    grids: dict[str, Grid] = {}
    for name, weight in feed.weights() if feed.types else ():
        if name in feed.types:
            keep = torch.from_numpy(masks[name].keep()).to(weight.device)
            grid = feed.kept_grid(name)
            if grid is None:
                check_range(name, weight, feed.types[name])
            rounded = round_nearest(weight, keep, feed.types[name], grid)
            feed.put(store, name, rounded.values)
            grids[name] = rounded.grid
    return grids


def _rounded(
    feed: Feed,
    group: Group,
    kept: Mapping[str, tuple[torch.Tensor, torch.Tensor]],
    replaced: Mapping[str, Replaced],
) -> dict[str, Replaced]:
    """Returns the quantised linears of `replaced`, rounded."""
    types = {name: feed.types[name] for name in kept}
    grids = {name: grid for name in kept if (grid := feed.kept_grid(name)) is not None}
    rounded = round_group(group, kept, types, group.damping, feed.note, grids)
    return {name: Replaced(one.values, replaced[name].arrays, one.grid) for name, one in rounded.items()}


def _grids(feed: Feed, arrays: Mapping[str, CodeArrays]) -> dict[str, Grid]:
    return {name: Grid(kind, arrays[name][SCALES]) for name, kind in feed.types.items()}


def solve_unstructured(feed: Feed, ratio: float, store: WeightStore) -> None:
    """Prune `ratio` of every linear by SparseGPT without structure: a reference for quality that no kernel makes fast."""

    def prune(group: Group) -> dict[str, Replaced]:
        name = next(iter(group.weights))
        factor = obs.inverse_factor(group.moment.clone(), group.damping, name, feed.note)
        return {
            name: Replaced(obs.solve_unstructured(weight, factor, ratio), {})
            for name, weight in group.weights.items()
        }

    feed.replace(prune, store, f"unstructured {ratio}")
