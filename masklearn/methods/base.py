"""Base class of mask methods. A method proposes patterns and tile scores, and finishes the masks of the chosen tiles."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from masklearn.traits import METHODS, Criterion, MethodTraits, Need

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from masklearn.checkpoint.store import WeightStore
    from masklearn.feed import Feed
    from masklearn.masks.record import TrainRecord
    from masklearn.recipe import LearnSettings

__all__ = ["Candidate", "Method", "Settled", "method_of"]


@dataclass(frozen=True, eq=False)
class Candidate:
    """Proposal for one linear, from which `select` chooses the tiles to make 2:4.

    pattern: uint8 codes of a 2:4 pattern for every group of 4, `[N, K/4]`; score: fp32 `[grid]`, cost of making each tile
    2:4, comparable across linears. A candidate has no new weights: a method solves them for the final masks
    (`Method.settle`).
    """

    pattern: NDArray[np.uint8]
    score: NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Settled:
    """Final masks of a method.

    tiles: tile maps `[grid]` by linear; patterns: uint8 codes `[N, K/4]` of all groups of 4 by linear; train: record of a
    method that trains, else None.
    """

    tiles: Mapping[str, NDArray[np.bool_]]
    patterns: dict[str, NDArray[np.uint8]]
    train: TrainRecord | None = None


class Method(MethodTraits, ABC):
    """Way to find masks. Its traits describe it (see `MethodTraits`), and it has no state."""

    @abstractmethod
    def candidates(self, feed: Feed) -> Iterator[tuple[str, Candidate]]:
        """Yield each linear's name and its candidate, once per linear of the feed."""

    def settle(
        self,
        feed: Feed,  # noqa: ARG002
        tiles: Mapping[str, NDArray[np.bool_]],
        patterns: dict[str, NDArray[np.uint8]],
        store: WeightStore,  # noqa: ARG002
    ) -> Settled:
        """Finish the masks after the tiles are chosen. New weights go to `store`.

        tiles: chosen tile maps by linear; patterns: patterns of the candidates by linear, empty if the method `solves`.
        The base class returns both unchanged and makes no new weights.
        """
        return Settled(tiles, patterns)

    def criterion(self, settings: LearnSettings, lacks: Collection[Need]) -> Criterion | None:
        """Returns the criterion that ranks tiles, None for a method without criteria.

        It is the setting's, or else the first one of the method that needs nothing of `lacks`.
        """
        if not self.criteria:
            return None
        return settings.criterion or next(one for one in self.criteria if not one.needs & {*lacks})

    def score_unit(self, settings: LearnSettings, lacks: Collection[Need]) -> str:
        """Returns the unit of a tile's score, in words."""
        criterion = self.criterion(settings, lacks)
        return criterion.unit if criterion else self.unit


def method_of(name: str) -> Method:
    """Returns the method of this name. Raises KeyError if there is none."""
    kind = METHODS[name]
    if not issubclass(kind, Method):
        raise TypeError(f"{kind} can't run: it is no Method")
    return kind()
