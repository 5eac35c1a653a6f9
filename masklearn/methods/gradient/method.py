"""What the methods have in common that train masks; each has settings of its own."""

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
    """Logits of tiles, of patterns or of both, trained by gradient descent from a one-shot prior."""

    needs = frozenset({Need.TRAINING})
    repair = Repair.DISTILL
    unit = "exp(tile logit) for each weight"
    settings: ClassVar[MaskSettings]

    def candidates(self, feed: Feed) -> Iterator[tuple[str, Candidate]]:
        """Yield a candidate per linear: what was trained, and the prior's of what was not."""
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
        """The prior's where no tiles are learned."""
        if self.settings.learns_tiles:
            return self.unit
        if settings.prior in method_names(trained=False):
            return method_of(settings.prior).score_unit(settings, lacks)
        return "1 for each weight of a tile that the prior leaves dense"


def _task_of(feed: Feed) -> Task:
    """The model to train in: the feed of a checkpoint has it."""
    from masklearn.stream.feed import CheckpointFeed

    if not isinstance(feed, CheckpointFeed):
        raise TypeError(
            f"{type(feed).__name__} gives no model to train in, and does not say that it lacks one"
        )
    return feed.task
