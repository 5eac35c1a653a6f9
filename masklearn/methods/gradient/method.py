"""Base class of the methods that train masks. They differ in their settings only."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import TYPE_CHECKING, ClassVar

from masklearn.methods.base import Candidate, Method, Settled, method_of
from masklearn.methods.gradient.settings import MaskSettings
from masklearn.traits import Need, Repair, method_names

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from masklearn.checkpoint.store import WeightStore
    from masklearn.feed import Feed
    from masklearn.recipe import LearnSettings
    from masklearn.task import Task

__all__ = ["GradientMethod"]


class GradientMethod(Method):
    """Trains logits of tiles, of patterns or of both by gradient descent, starting from a prior."""

    needs = frozenset({Need.TRAINING})
    repair = Repair.DISTILL
    unit = "exp(tile logit) for each weight"
    settings: ClassVar[MaskSettings]

    def candidates(self, feed: Feed) -> Iterator[tuple[str, Candidate]]:
        """Yield a candidate per linear. Patterns or scores that do not train are the prior's."""
        from masklearn.methods.gradient.learner import learn_by_gradient

        return learn_by_gradient(_task_of(feed), self.settings)

    def settle(
        self,
        feed: Feed,
        tiles: Mapping[str, NDArray[np.bool_]],
        patterns: dict[str, NDArray[np.uint8]],
        store: WeightStore,
    ) -> Settled:
        """Solve weights for the learned masks and for the prior's, and keep the better ones."""
        from masklearn.methods.gradient.contest import solve_best

        best_tiles, best_patterns, record = solve_best(_task_of(feed), self.settings, tiles, patterns, store)
        return Settled(best_tiles, best_patterns, record)

    def score_unit(self, settings: LearnSettings, lacks: Collection[Need]) -> str:
        """Returns the unit of a tile's score, which is the prior's if no tiles are learned."""
        if self.settings.learns_tiles:
            return self.unit
        if settings.prior in method_names(trained=False):
            return method_of(settings.prior).score_unit(settings, lacks)
        return "1 for each weight of a tile that the prior leaves dense"


def _task_of(feed: Feed) -> Task:
    """Returns the task of a checkpoint's feed, which has the model to train. Raises TypeError for another feed."""
    from masklearn.stream.feed import CheckpointFeed

    if not isinstance(feed, CheckpointFeed):
        raise TypeError(
            f"{type(feed).__name__} gives no model to train in, and does not say that it lacks one"
        )
    return feed.task
