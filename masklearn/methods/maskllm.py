"""Method `maskllm` (arXiv 2409.17481): learns 2:4 patterns by gradient descent, with every tile sparse."""

from masklearn.methods.gradient.method import GradientMethod
from masklearn.methods.gradient.settings import MaskSettings, Span
from masklearn.traits import METHODS


@METHODS.register
class MaskLlm(GradientMethod):
    """Learns patterns only. At ratios below .5 the tile scores of the prior choose the tiles."""

    name = "maskllm"
    summary = "trains only patterns, every tile 2:4 (MaskLLM)"
    # Settings of the patterns of `patch-joint`. The density is constant, so λ₁ is 0.
    settings = MaskSettings(
        tile_scale=None,
        pattern_scale=Span(100.0, 500.0),
        temperature=Span(4.0, 0.05),
        density_weight=0.0,
        norm_weight=10.0,
        learning_rate=1e-3,
    )
