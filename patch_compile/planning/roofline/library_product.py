"""Predicts microseconds of products by NVIDIA's libraries (dense by cuBLASLt, 2:4 by cuSPARSELt), and of dense linears in
W8A8 and fp8, with the kernel that rounds their activations to 8 bits.

A library cuts Y into tiles, and K into parts where tiles are few. It is assumed to take the fastest cut. `python -m
benchmarks.published` compares these times with published measurements.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from masklearn.masks.kinds.base import BYTES_DENSE
from masklearn.masks.kinds.table import TWO_FOUR
from masklearn.quant.table import FLOAT16, W8A8, WeightType
from patch_compile.artifacts.plan import Bound
from patch_compile.hardware.cards import RatedCard, SheetCard
from patch_compile.planning.roofline.assumptions import ASSUMED, Assumptions
from patch_compile.planning.roofline.launch_work import rates_of

# (tokens, features) of a tile of Y. cuSPARSELt's kernels for 16-bit types take at most 128 tokens: more would contradict
# the published times of wide outputs on Ampere and Ada (see `library_time`).
_TILES = tuple(
    (tokens, features)
    for tokens in (16, 32, 64, 128, 256)
    for features in (32, 64, 128, 256)
    if 1024 <= tokens * features <= 1 << 15
)
_SPARSE_TOKENS = 128
_PARTS = (1, 2, 4, 8)  # of K
_LEAST_PART = 256  # columns of K
_WAITED = 0.25  # share of bytes or products that wait for the other where waves read W again
_FIRST_WITH_FP8 = 89  # sm; Ada has fp8 tensor cores, Ampere has none
# Of twice the 16-bit rate, what cuBLASLt reaches in fp8: about the median of its measured rates on H100 PCIe, RTX 4090 and
# B200 (benchmarks/published/slidesparse.csv). GeForce cards sum fp8 products in fp32 at half their rate, as 16-bit ones.
_FP8_SHARE = 0.95
_MANY_WAVES = 4  # from here on, blocks of several waves overlap and the last wave counts by half


def first_bytes(card: SheetCard, assume: Assumptions) -> float:
    """Returns the microseconds from the end of the previous kernel to the first bytes from DRAM."""
    return assume.launch + assume.dram_latency / _clocks(card, assume)


def l2_trip(card: SheetCard, assume: Assumptions) -> float:
    """Returns the microseconds of a trip to L2."""
    return assume.l2_latency / _clocks(card, assume)


def _clocks(card: SheetCard, assume: Assumptions) -> float:
    """Returns the clocks of a microsecond."""
    return card.clock * 1e3 * assume.clock


def product_rate(card: SheetCard, assume: Assumptions, inputs: int = 16) -> float:
    """Returns the operations a microsecond that a library's dense product reaches. inputs: their bits."""
    return card.products(inputs).reached * 1e6 * assume.tensor * assume.clock


@dataclass(frozen=True)
class Weights:
    """Weights of a product: bytes of a weight, and products over those of dense weights, in time.

    by_waves: on a card whose L2 is smaller than them, each wave of blocks reads them again. inputs: bits of an element of X
    that they are multiplied with; output_bytes: bytes of an element of Y.
    """

    bytes: float = BYTES_DENSE
    products: float = 1.0
    by_waves: bool = False
    inputs: int = 16
    output_bytes: int = 2


@cache
def library_time(
    card: SheetCard,
    shape: tuple[int, int],
    tokens: int,
    assume: Assumptions = ASSUMED,
    *,
    sparse: bool = False,
    weights: WeightType = FLOAT16,
    fused: bool = False,
) -> tuple[float, Bound]:
    """Returns the microseconds of Y = X Wᵀ with W [N, K] = shape, and what bounds them.

    sparse: all of W is 2:4. weights: 16 bits, or int8 with int8 inputs. With these, Y of dense products is int32, which
    takes 4 bytes, unless `fused`. A launch in a CUDA graph is assumed.
    """
    inputs = weights.input_bits
    if not sparse:
        output_bytes = 4 if inputs == 8 and not fused else 2
        return product_time(
            card, shape, tokens, assume, Weights(inputs / 8, 1.0, False, inputs, output_bytes)
        )
    # On Ampere and Ada, blocks of cuSPARSELt for 16-bit types walk along the features first. This is why outputs of 16,384
    # and more features gain little there.
    by_waves = card.sm < 90 and inputs == 16
    each = Weights(TWO_FOUR.bytes_of(weights), sparse_products(card, assume, inputs), by_waves, inputs)
    return product_time(card, shape, tokens, assume, each)


def fp8_time(card: SheetCard, shape: tuple[int, int], tokens: int, assume: Assumptions = ASSUMED) -> float:
    """Returns the microseconds of a dense GEMM in fp8 with W [N, K] = shape, whose Y has 16 bits."""
    slower = card.products(8).reached / (2 * _FP8_SHARE * card.products(16).reached)
    return product_time(card, shape, tokens, assume, Weights(1.0, slower, inputs=8))[0]


def sparse_products(card: SheetCard, assume: Assumptions, inputs: int = 16) -> float:
    """Returns the time of 2:4 products over dense ones. inputs: bits of an element of X."""
    return 1 / (2 * card.products(inputs).sparse.value * assume.sparse)


@cache
def product_time(
    card: SheetCard, shape: tuple[int, int], tokens: int, assume: Assumptions, weights: Weights
) -> tuple[float, Bound]:
    """Returns the microseconds of the fastest cut of a product, and what bounds them."""
    moved, product, waited = min(
        (_cut(card, shape, tokens, assume, weights, tile, parts) for tile in _TILES for parts in _PARTS),
        key=lambda cut: max(cut[:2]) + cut[2],
    )
    edges = first_bytes(card, assume) + l2_trip(card, assume)
    return edges + max(moved, product) + waited, "bytes" if moved > product else "tensor"


def _cut(
    card: SheetCard,
    shape: tuple[int, int],
    tokens: int,
    assume: Assumptions,
    weights: Weights,
    tile: tuple[int, int],
    parts: int,
) -> tuple[float, float, float]:
    """Returns the microseconds of bytes and of products under a cut, and those in which they don't overlap.

    All are infinite if a library has no such cut.
    """
    (n, k), (high, wide) = shape, tile
    rows, columns = (max(1, -(-size // side)) for size, side in ((tokens, high), (n, wide)))
    blocks = rows * columns * parts
    if (weights.by_waves and high > _SPARSE_TOKENS) or (
        parts > 1 and (blocks > 2 * card.sms or k < parts * _LEAST_PART)
    ):
        return (float("inf"),) * 3
    each = (
        2
        * high
        * wide
        * k
        / parts
        / (product_rate(card, assume, weights.inputs) / card.sms)
        * weights.products
    )
    waves = blocks / card.sms
    product = each * (-(-blocks // card.sms) if waves <= _MANY_WAVES else waves + 0.5)
    size = weights.bytes * n * k
    reads = 1
    if weights.by_waves and size > card.l2 << 20:
        reads = -(-rows // max(1, card.sms // columns))
    outputs = tokens * n * (weights.output_bytes + (0 if parts == 1 else 2 * parts))
    moved = (reads * size + weights.inputs // 8 * tokens * k + outputs) / (
        card.bandwidth * 1e3 * assume.bandwidth
    )
    return moved, product, min(moved, product) * _WAITED if reads > 1 else 0.0


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
    if card.sm < _FIRST_WITH_FP8:
        return None
    return quantise_time(card, tokens, shape[1], assume) + fp8_time(card, shape, tokens, assume)


def _moving(card: RatedCard, moved: int, assume: Assumptions) -> float:
    """Returns the microseconds of a kernel that moves so many bytes, by L2 if its part for such bytes holds them."""
    rates = rates_of(card, assume)
    in_l2 = moved <= assume.l2_kept * (card.l2 << 20)
    pace = rates.l2 * card.sms * rates.clocks if in_l2 else rates.bytes
    return first_bytes(card, assume) + l2_trip(card, assume) + moved / pace
