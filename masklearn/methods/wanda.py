"""`wanda` (arXiv 2306.11695): a weight counts |w|·‖x‖₂, with x its input feature over the calibration text."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from masklearn.methods.base import Candidate, Method
from masklearn.methods.scores import IMPORTANCE
from masklearn.traits import METHODS, Need

if TYPE_CHECKING:
    from masklearn.feed import Feed

__all__ = ["Wanda"]


@METHODS.register
class Wanda(Method):
    """Looks at weights and the norms of their inputs.

    The norms are those of the dense model: which tiles become 2:4 is known only when every block is scored, and
    inputs that come out of wholly 2:4 blocks are further from the final model's than the dense ones. The sum of
    (|w|·‖x‖)² is the squared output error if features were uncorrelated, so it adds up over a tile.
    """

    name = "wanda"
    unit = IMPORTANCE
    summary = "keeps the largest products of weight and input norm"
    needs = frozenset({Need.INPUTS})

    def candidates(self, feed: Feed) -> Iterator[tuple[str, Candidate]]:
        """Yield a candidate per linear, by (|w|·‖x‖)²."""
        from masklearn.methods.scores.importance import candidate_from_importance

        for name, weight, norms in feed.norms():
            yield name, candidate_from_importance(weight.square() * norms, feed.recipe.tile)
