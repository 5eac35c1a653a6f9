"""Solves surviving weights for the final masks, group by group of linears that share their inputs."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from masklearn.checkpoint.store import WeightStore
from masklearn.feed import Feed, Group, Replaced
from masklearn.masks.tiles import expand_tiles
from masklearn.solvers import obs

__all__ = ["Solver", "solve", "solve_unstructured"]

Values = Mapping[str, torch.Tensor]
_CODES = "codes"


class Solver(Protocol):
    """Function that solves the weights of a group: `alps.solve_group` or `obs.solve_group`."""

    def __call__(
        self,
        group: Group,
        sparse: Values,
        patterns: Values | None,
        damping: float,
        note: Callable[[str], object],
    ) -> Mapping[str, tuple[torch.Tensor, torch.Tensor]]:
        """Returns new values `[N, K]`, in which pruned weights are 0, and uint8 codes `[N, K/4]` of all groups, by name.

        sparse: bool `[N, K/4]` by name, True for groups of 4 to prune 2:4; patterns: codes to use, None to choose them;
        damping, note: arguments of `obs.with_damping`, whose errors are raised.
        """


@dataclass(frozen=True, eq=False)
class _Asked:
    """Tile maps and given patterns, at the resolution of groups of 4. patterns: None if the solver chooses them."""

    feed: Feed
    tiles: Mapping[str, NDArray[np.bool_]]
    patterns: Mapping[str, NDArray[np.uint8]] | None

    def sparse(self, group: Group) -> dict[str, torch.Tensor]:
        shapes, tile = self.feed.shapes, self.feed.recipe.tile
        return {
            name: torch.from_numpy(expand_tiles(self.tiles[name], shapes[name], tile)).to(weight.device)
            for name, weight in group.weights.items()
        }

    def digest(self) -> str:
        """Returns a hash of the tile maps and patterns."""
        total = hashlib.sha256()
        for name, grid in sorted(self.tiles.items()):
            total.update(f"{name} {grid.shape}".encode() + np.packbits(grid).tobytes())
        for name, codes in sorted((self.patterns or {}).items()):
            total.update(name.encode() + codes.tobytes())
        return total.hexdigest()

    def codes(self, group: Group) -> dict[str, torch.Tensor] | None:
        if self.patterns is None:
            return None
        return {
            name: torch.from_numpy(self.patterns[name]).to(weight.device)
            for name, weight in group.weights.items()
        }


def solve(
    feed: Feed,
    tiles: Mapping[str, NDArray[np.bool_]],
    store: WeightStore,
    solver: Solver,
    patterns: Mapping[str, NDArray[np.uint8]] | None = None,
) -> dict[str, NDArray[np.uint8]]:
    """Solve the weights of all linears for given tile maps. Returns uint8 codes `[N, K/4]` of all groups of 4.

    store: receives the new weights; patterns: 2:4 patterns to use, None to let the solver choose them. Raises
    PatchCompileError as `obs.with_damping` and the feed do.
    """
    asked = _Asked(feed, tiles, patterns)

    def prune(group: Group) -> dict[str, Replaced]:
        found = solver(group, asked.sparse(group), asked.codes(group), feed.recipe.damping, feed.note)
        return {name: (values, {_CODES: codes.cpu().numpy()}) for name, (values, codes) in found.items()}

    kept = feed.replace(prune, store, f"{solver.__module__} {asked.digest()}")
    return {name: arrays[_CODES] for name, arrays in kept.items()}


def solve_unstructured(feed: Feed, ratio: float, store: WeightStore) -> None:
    """Prune `ratio` of every linear by SparseGPT without structure: a reference for quality that no kernel makes fast."""

    def prune(group: Group) -> dict[str, Replaced]:
        name = next(iter(group.weights))
        factor = obs.inverse_factor(group.moment.clone(), feed.recipe.damping, name, feed.note)
        solved = {name: obs.solve_unstructured(one, factor, ratio) for name, one in group.weights.items()}
        return {name: (values, {}) for name, values in solved.items()}

    feed.replace(prune, store, f"unstructured {ratio}")
