"""What every method returns for a linear, and the registry of methods."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from masklearn.checkpoint import Checkpoint
from masklearn.coverage import Coverage
from masklearn.recipe import LearnRecipe, Method

__all__ = ["METHODS", "Candidate", "Learner", "Progress", "register"]

# (what is done, done, total); called from the thread that learns.
Progress = Callable[[str, int, int], object]


@dataclass(frozen=True, eq=False)
class Candidate:
    """A proposal for one linear: `select` decides which of its tiles become 2:4.

    pattern: uint8 codes of a 2:4 pattern for every group of 4, `[N, K/4]`; score: fp32 `[grid]`, what turning
    each tile 2:4 costs, comparable across linears; weight: new weights `[N, K]`, or None to keep them.
    """

    pattern: NDArray[np.uint8]
    score: NDArray[np.float32]
    weight: NDArray[np.float32] | None = None


# Yields (name, candidate) for each covered linear, once.
Learner = Callable[[Checkpoint, Coverage, LearnRecipe, Progress], Iterator[tuple[str, Candidate]]]

METHODS: dict[Method, Learner] = {}


def register(method: Method) -> Callable[[Learner], Learner]:
    """Decorator: enter a learner under its method."""

    def enter(learner: Learner) -> Learner:
        METHODS[method] = learner
        return learner

    return enter
