"""Method `magnitude`: keeps the two largest |w| of each group. A tile's score is the sum of its pruned squares."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from masklearn.methods.base import Candidates, Method
from masklearn.traits import METHODS

if TYPE_CHECKING:
    from masklearn.feed import Feed


@METHODS.register
class Magnitude(Method):
    """Ranks tiles by their weights only, with one linear in memory at a time."""

    name = "magnitude"
    summary = "keeps the largest weights; needs no text"

    def candidates(self, feed: Feed) -> Iterator[tuple[str, Candidates]]:
        from masklearn.methods.scores import candidates_from_importance

        for name, weight in feed.weights():
            yield name, candidates_from_importance(weight.square(), feed.recipe.tile, feed.kinds[name])
