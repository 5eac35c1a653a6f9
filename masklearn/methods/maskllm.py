"""MaskLLM (arXiv 2409.17481): 2:4 patterns learned by gradient descent with every tile sparse."""

from collections.abc import Iterator

from masklearn.methods.candidate import Candidate, register
from masklearn.methods.gradient.learner import learn_by_gradient
from masklearn.methods.gradient.settings import MaskSettings, Span
from masklearn.recipe import Method
from masklearn.task import Task

__all__ = ["MASKLLM", "learn_maskllm"]

# The pattern half of `patch-joint`: density is constant, so λ₁ has nothing to do.
MASKLLM = MaskSettings(
    tile_scale=None,
    pattern_scale=Span(100.0, 500.0),
    temperature=Span(4.0, 0.05),
    density_weight=0.0,
    norm_weight=10.0,
    learning_rate=1e-3,
)


@register(Method.MASKLLM)
def learn_maskllm(task: Task) -> Iterator[tuple[str, Candidate]]:
    """Yield a candidate per linear: learned patterns, and the prior's tile scores for ratios below .5.

    The method knows no tiles: below .5 the prior ranks them, by its own patterns.
    """
    return learn_by_gradient(task, MASKLLM)
