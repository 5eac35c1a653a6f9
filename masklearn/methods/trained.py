"""Methods that train masks by gradient descent: `patch-tile` and `patch-joint` (PATCH, arXiv 2509.23410), and `maskllm`.

They differ in their settings only: in what trains, among others. `methods.gradient` has the training.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, ClassVar

from masklearn.methods.base import Candidates, Method, Settled
from masklearn.methods.gradient.settings import MaskSettings, Span
from masklearn.traits import METHODS, Repair, Requires

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


@METHODS.register
class PatchTile(GradientMethod):
    """Learns tiles only, with a fifth of the memory of `patch-joint`."""

    name = "patch-tile"
    summary = "trains only tiles, with the prior's patterns (PATCH)"
    settings = MaskSettings(
        tile_scale=Span(100.0, 500.0),
        pattern_scale=None,
        temperature=Span(2.0, 0.05),
        density_weight=3.0,
        norm_weight=0.1,
        learning_rate=1e-4,
    )


@METHODS.register
class PatchJoint(GradientMethod):
    """Learns tiles and patterns, which both start from the prior."""

    name = "patch-joint"
    summary = "trains tiles and patterns together (PATCH)"
    settings = MaskSettings(
        tile_scale=Span(25.0, 350.0),
        pattern_scale=Span(100.0, 500.0),
        temperature=Span(4.0, 0.05),
        density_weight=7.0,
        norm_weight=10.0,
        learning_rate=1e-3,
    )


@METHODS.register
class MaskLlm(GradientMethod):
    """Learns patterns only (arXiv 2409.17481). At ratios below .5 the tile scores of the prior choose the tiles."""

    name = "maskllm"
    summary = "trains only patterns, every tile 2:4 (MaskLLM)"
    # Settings of the patterns of `patch-joint`. The density is constant, so λ₁ is 0.
    settings = MaskSettings(
        tile_scale=None,
        pattern_scale=Span(100.0, 500.0),
        temperature=Span(4.0, 0.05),
        density_weight=0.0,
        norm_weight=10.0,
        learning_rate=1e-3,
    )


def _task_of(feed: Feed) -> Task:
    """Returns the task of a checkpoint's feed, which has the model to train. Raises TypeError for another feed."""
    from masklearn.stream.feed import CheckpointFeed

    if not isinstance(feed, CheckpointFeed):
        raise TypeError(
            f"{type(feed).__name__} does not give a model to train in, and does not say that it lacks the model"
        )
    return feed.task
