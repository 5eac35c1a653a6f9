"""The error that a sum of products may have on tensor cores: the tolerance of every check of the kernels' results.

Tensor cores do not round as IEEE 754 asks. They add products in steps: with the sum so far, a step's exact products are
shifted to the largest exponent among them, what lies below `bits` fractional bits is cut off, the rest is added exactly, and
the result is cut off to fp32 (Xie et al. 2025, arXiv 2511.10909, whose model agrees with the hardware bit for bit, and
Khattak and Mikaitis 2025, arXiv 2512.07004; tests/plugins/kernels/test_truncation.py holds STEPS to that model). With S, the
sum of magnitudes:

- A cut-off term loses less than 2^-bits of the largest term, which is at most S and is cut off itself only if it is
  smaller than a product (products of fp16 and bf16 have at most 22 bits). So a step loses less than products * 2^-bits * S.
- Cutting off to fp32 loses less than 2^-23 * S.

So 8 columns cost up to 10 units of 2^-24 on Ampere and Ada, and 16 cost as much on Hopper and Blackwell, where rounding to
nearest would cost one unit a column. A sum of like signs can come near, because all its errors point to zero: of 4096 random
products the model loses 844 units on Ampere and 439 on Hopper, where rounding to nearest errs by 55 at most. Neither model
has mma.sp. Its kept products are half of the columns, so they may take twice as many steps as the products of mma.
"""

from __future__ import annotations

from typing import NamedTuple

_UNIT = 2.0**-24  # error of one rounding to nearest
_SLAB = 64  # columns


class Step(NamedTuple):
    """One addition of a tensor core. products: added at once to the sum; bits: of the fraction that is kept of each."""

    products: int
    bits: int

    @property
    def error(self) -> float:
        """Returns the largest error as a share of the sum of magnitudes."""
        return self.products * 2.0**-self.bits + 2.0**-23


STEPS = {
    "Ampere": Step(8, 24),
    "Ada Lovelace": Step(8, 24),
    "Hopper": Step(16, 25),
    "RTX Blackwell": Step(16, 25),
}


def fp32_sum_error(columns: int) -> float:
    """Returns the largest error of X Wᵀ + bias, before it is rounded to 16 bits, as a share of |X| |W|ᵀ + |bias|.

    columns: K. The bound holds on every architecture, to first order. Blocks that share a tile add up their sums in fp32,
    at most one for each slab and one more; the bias is another addition.
    """
    steps = max(-(-columns // step.products) * step.error for step in STEPS.values())
    return steps + (-(-columns // _SLAB) + 2) * _UNIT
