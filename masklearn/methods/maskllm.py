"""`maskllm` (arXiv 2409.17481): 2:4 patterns learned by gradient descent with every tile sparse."""

from masklearn.methods.gradient.method import GradientMethod
from masklearn.methods.gradient.settings import MaskSettings, Span
from masklearn.traits import METHODS

__all__ = ["MaskLlm"]


@METHODS.register
class MaskLlm(GradientMethod):
    """Knows no tiles: below ratio .5 the prior ranks them, by its own patterns."""

    name = "maskllm"
    summary = "trains patterns alone, every tile 2:4 (MaskLLM)"
    # The pattern half of `patch-joint`: density is constant, so λ₁ has nothing to do.
    settings = MaskSettings(
        tile_scale=None,
        pattern_scale=Span(100.0, 500.0),
        temperature=Span(4.0, 0.05),
        density_weight=0.0,
        norm_weight=10.0,
        learning_rate=1e-3,
    )
