"""Magnitude: keep the two largest |w| of each group; a tile costs the squares it loses. No text."""

from collections.abc import Iterator

from masklearn.checkpoint import Checkpoint
from masklearn.coverage import Coverage
from masklearn.methods.candidate import Candidate, Progress, register
from masklearn.methods.relative import candidate_from_importance
from masklearn.recipe import LearnRecipe, Method

__all__ = ["learn_magnitude"]


@register(Method.MAGNITUDE)
def learn_magnitude(
    checkpoint: Checkpoint, coverage: Coverage, recipe: LearnRecipe, progress: Progress
) -> Iterator[tuple[str, Candidate]]:
    """Yield a candidate per linear, one weight in memory at a time."""
    for done, name in enumerate(coverage.linears, start=1):
        weight = checkpoint.read_finite(f"{name}.weight")
        yield name, candidate_from_importance(weight.square(), recipe.tile)
        progress("scoring", done, len(coverage.linears))
