"""Solves surviving weights for the final masks, group by group of linears that share their inputs."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from masklearn.checkpoint.store import WeightStore
from masklearn.feed import Feed, Group, Replaced
from masklearn.solvers import obs
from masklearn.solvers.projection import Codes, Projection

__all__ = ["Solver", "solve", "solve_unstructured"]

CodeArrays = Mapping[str, NDArray[Any]]
"""Codes of all groups of a linear, `[N, K/group]`, by name of the family."""


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
class _Asked:
    """Kinds of tiles and given codes. codes: None if the solver chooses them."""

    feed: Feed
    kinds: Mapping[str, NDArray[np.uint8]]
    codes: Mapping[str, CodeArrays] | None

    def allowed(self, group: Group) -> dict[str, Projection]:
        shapes, tile = self.feed.shapes, self.feed.recipe.tile
        return {
            name: Projection.of_tiles(self.kinds[name], shapes[name], tile, weight.device)
            for name, weight in group.weights.items()
        }

    def digest(self) -> str:
        """Returns a hash of the kinds of tiles and the codes."""
        total = hashlib.sha256()
        for name, grid in sorted(self.kinds.items()):
            total.update(f"{name} {grid.shape}".encode() + grid.tobytes())
        for name, codes in sorted((self.codes or {}).items()):
            total.update(name.encode() + b"".join(codes[family].tobytes() for family in sorted(codes)))
        return total.hexdigest()

    def given(self, group: Group) -> dict[str, Codes] | None:
        if self.codes is None:
            return None
        return {
            name: Codes.of_families(self.codes[name], weight.device) for name, weight in group.weights.items()
        }


def solve(
    feed: Feed,
    kinds: Mapping[str, NDArray[np.uint8]],
    store: WeightStore,
    solver: Solver,
    codes: Mapping[str, CodeArrays] | None = None,
) -> dict[str, CodeArrays]:
    """Solve the weights of all linears for given kinds of tiles. Returns the codes of all groups.

    kinds: codes of the kinds `[grid]` by linear; store: receives the new weights; codes: codes of groups to use, None to let
    the solver choose them. Raises PatchCompileError as `obs.with_damping` and the feed do.
    """
    asked = _Asked(feed, kinds, codes)

    def prune(group: Group) -> dict[str, Replaced]:
        found = solver(group, asked.allowed(group), asked.given(group), feed.recipe.damping, feed.note)
        return {name: (values, chosen.by_family()) for name, (values, chosen) in found.items()}

    return feed.replace(prune, store, f"{solver.__module__} {asked.digest()}")


def solve_unstructured(feed: Feed, ratio: float, store: WeightStore) -> None:
    """Prune `ratio` of every linear by SparseGPT without structure: a reference for quality that no kernel makes fast."""

    def prune(group: Group) -> dict[str, Replaced]:
        name = next(iter(group.weights))
        factor = obs.inverse_factor(group.moment.clone(), feed.recipe.damping, name, feed.note)
        solved = {name: obs.solve_unstructured(one, factor, ratio) for name, one in group.weights.items()}
        return {name: (values, {}) for name, values in solved.items()}

    feed.replace(prune, store, f"unstructured {ratio}")
