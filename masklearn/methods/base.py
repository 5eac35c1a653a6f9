"""Base class of mask methods. A method proposes patterns and tile scores, and finishes the masks of the chosen tiles."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from masklearn.traits import METHODS, Criterion, MethodTraits, Requires

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from masklearn.choice.losses import RoundingLoss
    from masklearn.feed import CodeArrays, Feed
    from masklearn.masks.kinds.base import TileKind
    from masklearn.masks.record import TrainRecord
    from masklearn.model.store import WeightStore
    from masklearn.quant.grid import Grid
    from masklearn.recipe import LearnSettings


@dataclass(frozen=True, eq=False)
class Candidate:
    """Proposal for `select` to give tiles of a linear a kind.

    pattern: codes of every group, `[N, K/group]` in the type of the kind's family: uint8 `[N, K/4]` for 2:4. It may be empty
    for other kinds if the method `solves`. score: fp32 `[grid]`, cost of giving each tile this kind, comparable across kinds
    and linears. A candidate has no new weights: a method solves them for the final masks (`Method.settle`).
    """

    pattern: NDArray[Any]
    score: NDArray[np.float32]


Candidates = Mapping["TileKind", Candidate]
"""Proposals for a linear, by kind."""


class WithRounding(dict["TileKind", Candidate]):
    """Candidates of a linear whose weight type is to be chosen. rounding: loss by type, in the unit of the scores."""

    def __init__(self, candidates: Candidates, rounding: RoundingLoss) -> None:
        super().__init__(candidates)
        self.rounding = rounding


@dataclass(frozen=True, eq=False)
class Settled:
    """Final masks of a method.

    kinds: codes of the kinds of tiles, uint8 `[grid]` by linear; codes: codes of all groups by linear, for the families of
    its kinds; train: record of a method that trains, else None; grids: grids of the quantised linears, if the method rounds
    the solved weights.
    """

    kinds: Mapping[str, NDArray[np.uint8]]
    codes: dict[str, CodeArrays]
    train: TrainRecord | None = None
    grids: Mapping[str, Grid] = field(default_factory=dict)


class Method(MethodTraits, ABC):
    """Way to find masks. Its traits describe it (see `MethodTraits`), and it has no state."""

    @abstractmethod
    def candidates(self, feed: Feed) -> Iterator[tuple[str, Candidates]]:
        """Yield each linear's name and its candidates: a candidate for each kind of `feed.kinds`."""

    def settle(
        self,
        feed: Feed,  # noqa: ARG002
        kinds: Mapping[str, NDArray[np.uint8]],
        codes: dict[str, CodeArrays],
        store: WeightStore,  # noqa: ARG002
    ) -> Settled:
        """Finish the masks after the kinds of tiles are chosen. New weights go to `store`.

        kinds: codes of the chosen kinds `[grid]` by linear; codes: the candidates' codes of all groups, of the chosen kind
        in each tile, by linear; empty if the method `solves`. The base class returns both unchanged, without new weights.
        """
        return Settled(kinds, codes)

    def criterion(self, settings: LearnSettings, why_not: Collection[Requires]) -> Criterion | None:
        """Returns the criterion that ranks tiles, None for a method without criteria.

        It is the setting's, or else the first criterion of the method that does not need anything in `why_not`.
        """
        if not self.criteria:
            return None
        return settings.criterion or next(one for one in self.criteria if not one.needs & {*why_not})


def method_of(name: str) -> Method:
    """Returns the method of this name. Raises KeyError if there is none."""
    kind = METHODS[name]
    if not issubclass(kind, Method):
        raise TypeError(f"{kind} can't run: it is not a Method")
    return kind()
