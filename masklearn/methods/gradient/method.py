"""Base class of the methods that train masks. They differ in their settings only."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, ClassVar

from masklearn.methods.base import Candidates, Method, Settled
from masklearn.methods.gradient.settings import MaskSettings
from masklearn.traits import Repair, Requires

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from masklearn.feed import CodeArrays, Feed
    from masklearn.model.store import WeightStore
    from masklearn.task import Task


class GradientMethod(Method):
    """Trains logits of tiles, of patterns or of both by gradient descent, starting from a prior."""

    needs = frozenset({Requires.TRAINING})
    repair = Repair.DISTILL
    only_two_four = True
    settings: ClassVar[MaskSettings]

    def candidates(self, feed: Feed) -> Iterator[tuple[str, Candidates]]:
        """Yield a candidate per linear, of 2:4. Patterns or scores that do not train are the prior's."""
        from masklearn.masks.kinds.table import TWO_FOUR
        from masklearn.methods.gradient.learner import learn_by_gradient

        linears = learn_by_gradient(_task_of(feed), self.settings)
        return ((name, {TWO_FOUR: candidate}) for name, candidate in linears)

    def settle(
        self,
        feed: Feed,
        kinds: Mapping[str, NDArray[np.uint8]],
        codes: dict[str, CodeArrays],
        store: WeightStore,
    ) -> Settled:
        """Solve weights for the learned and the prior's masks, keep the better result, and round quantised linears."""
        from masklearn.masks.kinds.table import TWO_FOUR
        from masklearn.methods.gradient.prior import solve_best

        tiles = {name: grid == TWO_FOUR.code for name, grid in kinds.items()}
        patterns = {name: own[TWO_FOUR.name] for name, own in codes.items()}
        return solve_best(_task_of(feed), self.settings, tiles, patterns, store)


def _task_of(feed: Feed) -> Task:
    """Returns the task of a checkpoint's feed, which has the model to train. Raises TypeError for another feed."""
    from masklearn.stream.feed import CheckpointFeed

    if not isinstance(feed, CheckpointFeed):
        raise TypeError(
            f"{type(feed).__name__} does not give a model to train in, and does not say that it lacks the model"
        )
    return feed.task
