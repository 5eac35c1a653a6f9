"""Method `sparsegpt` (arXiv 2301.00774): ranks tiles by the output error of pruning, then solves patterns and weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from masklearn.methods.base import Candidates, Method, Settled
from masklearn.traits import METHODS, Criterion, Requires

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from masklearn.feed import CodeArrays, Feed
    from masklearn.model.store import WeightStore
    from masklearn.solvers.solve import Solver


@METHODS.register
class SparseGpt(Method):
    """Scores tiles with the inputs of the dense model, then solves patterns and weights for the final tiles.

    The final tiles are unknown until every block is scored. The activations of a fully 2:4 model are further from the
    final model's than the dense model's activations, so the scores use the dense model.
    """

    name = "sparsegpt"
    summary = "ranks tiles by output error and solves the weights, both by SparseGPT"
    needs = frozenset({Requires.INPUTS})
    criteria = (Criterion.RELATIVE, Criterion.FISHER, Criterion.RAW, Criterion.MAGNITUDE, Criterion.RANDOM)
    solves = True

    def candidates(self, feed: Feed) -> Iterator[tuple[str, Candidates]]:
        """Yield candidates per linear, ranked by the recipe's criterion or the method's own."""
        from masklearn.methods.scores import candidates_by_error

        criterion = self.criterion(feed.recipe, feed.why_not)
        assert criterion is not None
        if feed.recipe.criterion is None and criterion is not self.criteria[0]:
            feed.note(f"tiles are ranked by {criterion} output error. {feed.why_not[Requires.LOSS]}")
        return candidates_by_error(feed, criterion)

    def settle(
        self,
        feed: Feed,
        kinds: Mapping[str, NDArray[np.uint8]],
        codes: dict[str, CodeArrays],  # noqa: ARG002
        store: WeightStore,
    ) -> Settled:
        """Choose patterns and solve weights for the tiles, and round quantised linears."""
        from masklearn.solvers.solve import solve

        solved = solve(feed, kinds, store, self.solver)
        return Settled(kinds, solved.codes, grids=solved.grids)

    @property
    def solver(self) -> Solver:
        from masklearn.solvers import obs

        return obs.solve_group
