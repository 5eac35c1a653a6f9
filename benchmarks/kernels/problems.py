"""Packed weights for timing: random values and positions, so that no weight has to be packed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from kernels import WEIGHTS, device_index, kinds_with
from numpy.typing import NDArray

from masklearn.masks.kinds.table import DENSE, TWO_FOUR
from masklearn.quant.table import FLOAT16, QUANTISED

# (out_features, in_features) of the models' linears: LLaMA-2-7B, LLaMA-3.1-8B, Qwen2.5-0.5B
SHAPES = (
    *((4096, 4096), (11008, 4096), (4096, 11008)),
    *((1024, 4096), (14336, 4096), (4096, 14336)),
    *((896, 896), (128, 896), (4864, 896), (896, 4864)),
)
TOKENS = (1, 8, 16, 32, 64, 128, 512, 2048, 4096)
_SLAB, _RANDOM_SLABS = 64, 512
# Two kept positions of four, ascending, as nibbles idx0 | idx1 << 2
_NIBBLES = np.array([i | j << 2 for i in range(4) for j in range(i + 1, 4)], np.uint32)


def panel_rows(shape: tuple[int, int]) -> int:
    """Height of the panels that a plugin would pack this shape in."""
    return 128 if shape[0] % 128 == 0 else 64


@dataclass(frozen=True)
class Layout:
    """Places of a linear's slabs. index: as a kernel takes it, int32; counts: numbers of slabs by kind; weights: number of
    their type."""

    shape: tuple[int, int]
    panel_rows: int
    index: NDArray[np.int32]
    counts: tuple[int, ...]
    weights: int = 0

    @property
    def panels(self) -> int:
        """Number of panels along the output features."""
        return -(-self.shape[0] // self.panel_rows)

    @property
    def weight_bytes(self) -> int:
        """Bytes of all dense and 2:4 slabs: of 16-bit weights 128 and 72 per panel row."""
        kind = QUANTISED[WEIGHTS[self.weights]] if self.weights else FLOAT16
        both = DENSE.bytes_of(kind) * self.counts[0] + TWO_FOUR.bytes_of(kind) * self.counts[1]
        return int(self.panel_rows * _SLAB * both)


def random_layout(shape: tuple[int, int], panel_rows: int, share: float, weights: int = 0) -> Layout:
    """A layout with `share` of the slabs 2:4, to one slab, at random places. weights: number of their type."""
    panels, columns = -(-shape[0] // panel_rows), -(-shape[1] // _SLAB)
    is_sparse = np.zeros(panels * columns, np.bool_)
    is_sparse[: round(share * is_sparse.size)] = True
    is_sparse = np.random.default_rng(0).permutation(is_sparse).reshape(panels, columns)
    pointers = [np.concatenate([[0], np.cumsum(kind.sum(1))]) for kind in (~is_sparse, is_sparse)]
    places = [np.nonzero(kind)[1] for kind in (~is_sparse, is_sparse)]
    index = np.concatenate([*pointers, *places]).astype(np.int32)
    if weights:  # their kernels know all kinds
        index = device_index(index, (0, 1), is_sparse.size, len(kinds_with(weights)))
    return Layout(shape, panel_rows, index, (int((~is_sparse).sum()), int(is_sparse.sum())), weights)


def random_meta(layout: Layout) -> NDArray[np.int32]:
    """Valid metadata words, `[sparse slabs, panel_rows * 2]`. They repeat after some slabs."""
    rng = np.random.default_rng(0)
    slabs, width = layout.counts[1], layout.panel_rows * 2
    words = np.zeros((min(slabs, _RANDOM_SLABS), width), np.uint32)
    for nibble in range(8):
        words |= _NIBBLES[rng.integers(0, 6, words.shape)] << np.uint32(4 * nibble)
    return np.resize(words, (slabs, width)).view(np.int32)
