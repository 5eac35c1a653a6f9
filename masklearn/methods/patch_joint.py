"""Method `patch-joint` (PATCH, arXiv 2509.23410): learns tiles and 2:4 patterns together by gradient descent."""

from masklearn.methods.gradient.method import GradientMethod
from masklearn.methods.gradient.settings import MaskSettings, Span
from masklearn.traits import METHODS


@METHODS.register
class PatchJoint(GradientMethod):
    """Learns tiles and patterns, which both start from the prior."""

    name = "patch-joint"
    summary = "trains tiles and patterns together (PATCH)"
    settings = MaskSettings(
        tile_scale=Span(25.0, 350.0),
        pattern_scale=Span(100.0, 500.0),
        temperature=Span(4.0, 0.05),
        density_weight=7.0,
        norm_weight=10.0,
        learning_rate=1e-3,
    )
