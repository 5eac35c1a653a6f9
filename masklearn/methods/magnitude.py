"""Magnitude: keep the two largest |w| of each group; a tile costs the squares it loses. No text."""

from collections.abc import Iterator

from masklearn.checkpoint.linears import read_linear
from masklearn.methods.candidate import Candidate, register
from masklearn.methods.scores.importance import candidate_from_importance
from masklearn.recipe import Method
from masklearn.task import Task

__all__ = ["learn_magnitude"]


@register(Method.MAGNITUDE)
def learn_magnitude(task: Task) -> Iterator[tuple[str, Candidate]]:
    """Yield a candidate per linear, one weight in memory at a time."""
    for done, name in enumerate(task.coverage.linears, start=1):
        weight = read_linear(task.checkpoint, name)
        yield name, candidate_from_importance(weight.square(), task.recipe.tile)
        task.progress("scoring", done, len(task.coverage.linears))
