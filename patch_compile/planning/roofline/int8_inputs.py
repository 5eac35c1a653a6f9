"""Predicts the kernel that rounds activations to 8 bits, and dense linears in W8A8 and fp8 by libraries."""

from __future__ import annotations

from masklearn.quant.table import W8A8
from patch_compile.hardware.cards import RatedCard
from patch_compile.planning.roofline.assumptions import ASSUMED, Assumptions
from patch_compile.planning.roofline.launch_work import rates_of
from patch_compile.planning.roofline.library_product import (
    FIRST_WITH_FP8,
    first_bytes,
    fp8_time,
    l2_trip,
    library_time,
)


def quantise_time(card: RatedCard, tokens: int, in_features: int, assume: Assumptions = ASSUMED) -> float:
    """Returns the microseconds of rounding X to int8: it reads 2 bytes and writes 1 for an element, and 4 for a token."""
    return _moving(card, tokens * (3 * in_features + 4), assume)


def dense_w8a8_time(
    card: RatedCard,
    shape: tuple[int, int],
    tokens: int,
    assume: Assumptions = ASSUMED,
    *,
    fused: bool = False,
) -> float:
    """Returns the microseconds of a dense W8A8 linear `[N, K]` by cuBLASLt, between kernels that round X and scale Y.

    cuBLASLt writes int32, which a kernel of its own scales and rounds to 16 bits. fused: the product does this at no cost,
    as kernels by CUTLASS do, but cuBLASLt does not.
    """
    product, _ = library_time(card, shape, tokens, assume, weights=W8A8, fused=fused)
    scaled = 0.0 if fused else _moving(card, 6 * tokens * shape[0], assume)
    return quantise_time(card, tokens, shape[1], assume) + product + scaled


def dense_fp8_time(
    card: RatedCard, shape: tuple[int, int], tokens: int, assume: Assumptions = ASSUMED
) -> float | None:
    """Returns the microseconds of a dense linear `[N, K]` in fp8 by cuBLASLt, which scales Y itself, and of rounding X.

    None if the card has no fp8.
    """
    if card.sm < FIRST_WITH_FP8:
        return None
    return quantise_time(card, tokens, shape[1], assume) + fp8_time(card, shape, tokens, assume)


def _moving(card: RatedCard, moved: int, assume: Assumptions) -> float:
    """Returns the microseconds of a kernel that moves so many bytes, by L2 if its part for such bytes holds them."""
    rates = rates_of(card, assume)
    in_l2 = moved <= assume.l2_kept * (card.l2 << 20)
    pace = rates.l2 * card.sms * rates.clocks if in_l2 else rates.bytes
    return first_bytes(card, assume) + l2_trip(card, assume) + moved / pace
