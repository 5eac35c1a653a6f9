"""`oneshot`: tiles ranked by the loss that pruning them costs, patterns and weights solved by ALPS, then repair."""

from __future__ import annotations

from typing import TYPE_CHECKING

from masklearn.methods.sparsegpt import SparseGpt
from masklearn.traits import METHODS, Criterion, Repair

if TYPE_CHECKING:
    from masklearn.solvers.solve import Solver

__all__ = ["OneShot"]


@METHODS.register
class OneShot(SparseGpt):
    """SparseGPT's course with another first criterion, another solver, and repair.

    An encoder has no next-token loss to rank by: its tiles are ranked by relative output error.
    """

    name = "oneshot"
    summary = "ranks tiles by the loss they cost, solves the weights by ALPS, then repairs them"
    criteria = (Criterion.FISHER, Criterion.RELATIVE, Criterion.RAW, Criterion.MAGNITUDE, Criterion.RANDOM)
    repair = Repair.DISTILL

    @property
    def solver(self) -> Solver:
        """ALPS."""
        from masklearn.solvers import alps

        return alps.solve_group
