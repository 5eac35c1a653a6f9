"""Method `oneshot`: ranks tiles by the loss of pruning them, solves patterns and weights by ALPS, then repairs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from masklearn.methods.sparsegpt import SparseGpt
from masklearn.traits import METHODS, Criterion, Repair

if TYPE_CHECKING:
    from masklearn.solvers.solve import Solver


@METHODS.register
class OneShot(SparseGpt):
    """`sparsegpt` with another default criterion, another solver, and repair.

    The tiles of an encoder, which has no next-token loss, are ranked by relative output error.
    """

    name = "oneshot"
    summary = "ranks tiles by the loss they cost, solves the weights by ALPS, then repairs them"
    criteria = (Criterion.FISHER, Criterion.RELATIVE, Criterion.RAW, Criterion.MAGNITUDE, Criterion.RANDOM)
    repair = Repair.DISTILL
    permutes = True

    @property
    def solver(self) -> Solver:
        from masklearn.solvers import alps

        return alps.solve_group
