"""PATCH (arXiv 2509.23410): tiles, and with `patch-joint` also 2:4 patterns, learned by gradient descent."""

from collections.abc import Iterator

from masklearn.methods.candidate import Candidate, register
from masklearn.methods.gradient.learner import learn_by_gradient
from masklearn.methods.gradient.settings import MaskSettings, Span
from masklearn.recipe import Method
from masklearn.task import Task

__all__ = ["JOINT", "TILE", "learn_patch_joint", "learn_patch_tile"]

JOINT = MaskSettings(
    tile_scale=Span(25.0, 350.0),
    pattern_scale=Span(100.0, 500.0),
    temperature=Span(4.0, 0.05),
    density_weight=7.0,
    norm_weight=10.0,
    learning_rate=1e-3,
)
TILE = MaskSettings(
    tile_scale=Span(100.0, 500.0),
    pattern_scale=None,
    temperature=Span(2.0, 0.05),
    density_weight=3.0,
    norm_weight=0.1,
    learning_rate=1e-4,
)


@register(Method.PATCH_JOINT)
def learn_patch_joint(task: Task) -> Iterator[tuple[str, Candidate]]:
    """Yield a candidate per linear: patterns and tiles learned together, from the prior's."""
    return learn_by_gradient(task, JOINT)


@register(Method.PATCH_TILE)
def learn_patch_tile(task: Task) -> Iterator[tuple[str, Candidate]]:
    """Yield a candidate per linear: the tiles learned, the patterns the prior's. Takes a fifth of the memory."""
    return learn_by_gradient(task, TILE)
