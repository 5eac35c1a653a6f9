"""What a mask method is: it proposes a pattern and tile scores for every linear, and may settle the chosen tiles."""

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
    """A proposal for one linear: `select` decides which of its tiles become 2:4.

    pattern: uint8 codes of a 2:4 pattern for every group of 4, `[N, K/4]`; score: fp32 `[grid]`, what turning
    each tile 2:4 costs, comparable across linears. New weights, where a method gives them, are solved for the
    final masks (`Method.settle`), so a candidate has none.
    """

    pattern: NDArray[np.uint8]
    score: NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Settled:
    """The final masks: tile maps `[grid]` and patterns of every group of 4 by linear; train: what a method that trains
    says of it.
    """

    tiles: Mapping[str, NDArray[np.bool_]]
    patterns: dict[str, NDArray[np.uint8]]
    train: TrainRecord | None = None


class Method(MethodTraits, ABC):
    """One way to find masks. Its traits say what it needs and does; it has no state of its own."""

    @abstractmethod
    def candidates(self, feed: Feed) -> Iterator[tuple[str, Candidate]]:
        """Yield a candidate for each of the feed's linears, once."""

    def settle(
        self,
        feed: Feed,  # noqa: ARG002
        tiles: Mapping[str, NDArray[np.bool_]],
        patterns: dict[str, NDArray[np.uint8]],
        store: WeightStore,  # noqa: ARG002
    ) -> Settled:
        """Finish the masks once the tiles are chosen; new weights go to `store`.

        tiles: the choice; patterns: those of the candidates, empty where the method `solves`. As it is here, the masks
        are final and no weight changes.
        """
        return Settled(tiles, patterns)

    def criterion(self, settings: LearnSettings, lacks: Collection[Need]) -> Criterion | None:
        """What tiles are ranked by: as asked, else the method's first choice that needs nothing of `lacks`."""
        if not self.criteria:
            return None
        return settings.criterion or next(one for one in self.criteria if not one.needs & {*lacks})

    def score_unit(self, settings: LearnSettings, lacks: Collection[Need]) -> str:
        """Say in words what a tile's score is."""
        criterion = self.criterion(settings, lacks)
        return criterion.unit if criterion else self.unit


def method_of(name: str) -> Method:
    """The method of this name; KeyError where there is none."""
    kind = METHODS[name]
    if not issubclass(kind, Method):
        raise TypeError(f"{kind} can't run: it is no Method")
    return kind()
