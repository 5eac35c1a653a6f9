"""Method `patch-tile` (PATCH, arXiv 2509.23410): learns tiles by gradient descent, with the patterns of the prior."""

from masklearn.methods.gradient.method import GradientMethod
from masklearn.methods.gradient.settings import MaskSettings, Span
from masklearn.traits import METHODS


@METHODS.register
class PatchTile(GradientMethod):
    """Learns tiles only, with a fifth of the memory of `patch-joint`."""

    name = "patch-tile"
    summary = "trains only tiles, with the prior's patterns (PATCH)"
    settings = MaskSettings(
        tile_scale=Span(100.0, 500.0),
        pattern_scale=None,
        temperature=Span(2.0, 0.05),
        density_weight=3.0,
        norm_weight=0.1,
        learning_rate=1e-4,
    )
