"""Sets of masks that no method learned."""

from collections.abc import Mapping

from masklearn.masks.linear_mask import LinearMask
from masklearn.masks.maskset import MaskSet
from tests.mosaics import random_mask


def set_of(masks: Mapping[str, LinearMask]) -> MaskSet:
    return MaskSet(dict(masks), method="random", seed=0, base_model="x", base_sha256="", ratio_asked=0.25)


def random_masks(
    linears: Mapping[str, tuple[int, int]], tile: tuple[int, int] = (32, 32), share: float = 0.5
) -> MaskSet:
    """Random masks of linears; share: of tiles that are 2:4."""
    return set_of(
        {name: random_mask(shape, tile, share, i)[0] for i, (name, shape) in enumerate(linears.items())}
    )
