"""Method `wanda` (arXiv 2306.11695): ranks a weight by |w|·‖x‖₂, where x is its input feature on the calibration text."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from masklearn.methods.base import Candidates, Method
from masklearn.traits import METHODS, Requires

if TYPE_CHECKING:
    from masklearn.feed import Feed


@METHODS.register
class Wanda(Method):
    """Ranks tiles by their weights and the norms of their inputs in the dense model.

    The final tiles are unknown until every block is scored, and the inputs from fully 2:4 blocks are further from the
    final model's than the dense model's inputs. For uncorrelated features the sum of (|w|·‖x‖)² over a tile is the squared
    output error of pruning, so these values are summed.
    """

    name = "wanda"
    summary = "keeps the largest products of weight and input norm"
    needs = frozenset({Requires.INPUTS})

    def candidates(self, feed: Feed) -> Iterator[tuple[str, Candidates]]:
        """Yield candidates per linear, with (|w|·‖x‖)² as the importance."""
        from masklearn.methods.scores import candidates_from_importance

        for name, weight, norms in feed.norms():
            yield (
                name,
                candidates_from_importance(weight.square() * norms, feed.recipe.tile, feed.kinds[name]),
            )
