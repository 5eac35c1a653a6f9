"""What every method returns for a linear, and the registry of methods."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from masklearn.recipe import Method
from masklearn.task import Task

__all__ = ["METHODS", "Candidate", "Learner", "register"]


@dataclass(frozen=True, eq=False)
class Candidate:
    """A proposal for one linear: `select` decides which of its tiles become 2:4.

    pattern: uint8 codes of a 2:4 pattern for every group of 4, `[N, K/4]`; score: fp32 `[grid]`, what turning
    each tile 2:4 costs, comparable across linears. New weights, where a method gives them, are solved for the
    final masks (`solve`), so a candidate has none.
    """

    pattern: NDArray[np.uint8]
    score: NDArray[np.float32]


# Yields (name, candidate) for each covered linear, once.
Learner = Callable[[Task], Iterator[tuple[str, Candidate]]]

METHODS: dict[Method, Learner] = {}


def register(method: Method) -> Callable[[Learner], Learner]:
    """Decorator: enter a learner under its method."""

    def enter(learner: Learner) -> Learner:
        METHODS[method] = learner
        return learner

    return enter
