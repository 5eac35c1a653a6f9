"""The groups of kernels of a plugin, as `plugins/kernels/launch.h` divides them. A plugin has all of them or some.

A group has the name of its source: `all_half` is launch_all_half.cu, for X of float16 and 16-bit weights with n:16 slabs.
Kernels of w8a8 take X of both types.
"""

from __future__ import annotations

from collections.abc import Collection

from masklearn.masks.kinds.base import TileKind
from masklearn.masks.kinds.table import DENSE, TWO_FOUR
from masklearn.quant.table import BFLOAT16, FLOAT16, QUANTISED, W8A8, WeightType

_OF_16_BITS, _ALL_KINDS = "", "all_"
_SCALARS = {FLOAT16.name: "half", BFLOAT16.name: "bfloat16"}
_OF_ONE_TYPE = (_OF_16_BITS, _ALL_KINDS, *(f"{name}_" for name, one in QUANTISED.items() if one.widened))
KERNELS = (*(f"{group}{scalar}" for scalar in _SCALARS.values() for group in _OF_ONE_TYPE), W8A8.name)
_ALL = "all"
_BETWEEN = "+"  # nvcc divides the value of a macro at commas


def kernels_for(dtype: str, weights: WeightType | None, kinds: Collection[TileKind]) -> str | None:
    """Returns the group that multiplies a linear; None for a type of X that no kernel takes.

    dtype: of X; weights: None for 16 bits; kinds: of the linear's slabs.
    """
    if dtype not in _SCALARS:
        return None
    if weights is W8A8:
        return W8A8.name
    if weights is not None and weights.quantised:
        return f"{weights}_{_SCALARS[dtype]}"
    return (_OF_16_BITS if {*kinds} <= {DENSE, TWO_FOUR} else _ALL_KINDS) + _SCALARS[dtype]


def kernel_source(group: str) -> str:
    return f"launch_{group}.cu"


def in_order(kernels: Collection[str]) -> tuple[str, ...]:
    return tuple(group for group in KERNELS if group in kernels)


def spell_kernels(kernels: Collection[str]) -> str:
    """Returns the groups as an identity has them."""
    return _ALL if {*kernels} >= {*KERNELS} else _BETWEEN.join(in_order(kernels))


def parse_kernels(text: str) -> tuple[str, ...]:
    """Returns the groups that an identity names."""
    return KERNELS if text == _ALL else in_order(text.split(_BETWEEN))
