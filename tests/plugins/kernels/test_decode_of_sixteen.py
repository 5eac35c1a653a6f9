"""The kernels for all kinds multiply the identity by n:16 slabs of every mask: Y has each kept value at its place."""

import numpy as np
import pytest

from masklearn.masks.kinds.families import OfSixteen
from tests.oracles.element_packing import KEPT, pack_slabs
from tests.plugins.configs import CONFIGS
from tests.plugins.host_kernel import COMPILER, Launch

pytestmark = pytest.mark.skipif(COMPILER is None, reason="no C++ compiler for the host emulation")


def weight_of_all_masks(count):
    """Bits [N, 64] of finite numbers, whose rows of a lane have each mask of `count` of 16; some twice to fill a panel."""
    masks = np.arange(1 << 16)
    masks = masks[np.bitwise_count(masks) == count].astype(np.uint16)
    panels = -(-len(masks) // 256)
    kept = OfSixteen().keep(np.resize(masks, (panels * 64, 4)))
    rng = np.random.default_rng(count)
    bits = rng.integers(1, 0x7C00, kept.shape, np.uint16) | rng.choice([0, 0x8000], kept.shape).astype(
        np.uint16
    )
    return np.where(kept, bits, 0)


@pytest.mark.parametrize("config", [name for name in CONFIGS if name.startswith("all-")])
@pytest.mark.parametrize("kind", range(2, len(KEPT)), ids=lambda kind: f"{KEPT[kind]}:16")
def test_every_mask_moves_values_to_their_places(kernel, kind, config):
    bits = weight_of_all_masks(KEPT[kind])
    packed = pack_slabs(bits, np.full((len(bits) // 64, 1), kind), 64)
    launch = Launch(CONFIGS.index(config), parts=3)
    y = kernel.run(packed, np.eye(64, dtype=np.float16).view(np.uint16), None, launch)
    np.testing.assert_array_equal(y.T, bits)
