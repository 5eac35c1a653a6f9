"""Predicts microseconds of one linear.

The roof is the slowest of bytes, tensor cores, shared memory, L2 and issue slots; the kernels' other work comes on top.
The dense product is cuBLASLt's.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from masklearn.masks.kinds.base import BYTES_DENSE, TileKind
from masklearn.masks.kinds.table import DENSE, TWO_FOUR
from masklearn.quant.table import FLOAT16, WeightType
from patch_compile.artifacts.plan import Bound, Slower, Way
from patch_compile.hardware.cards import RatedCard
from patch_compile.packing.slab_kinds import SLAB_K
from patch_compile.planning.roofline.assumptions import ASSUMED, Assumptions
from patch_compile.planning.roofline.choice import choose_schedule, limits_of
from patch_compile.planning.roofline.launch_work import rates_of, weight_bytes, work_of
from patch_compile.planning.roofline.library_product import (
    Weights,
    dense_w8a8_time,
    first_bytes,
    l2_trip,
    library_time,
    product_time,
    quantise_time,
    sparse_products,
)
from patch_compile.planning.roofline.schedule import (
    CONFIGS,
    FIRST_THAT_WAITS,
    Config,
    Problem,
    kinds_of,
)

DENSE_PATH = "dense path"  # stands for a configuration: W is unpacked, and cuBLASLt multiplies it
_PIECE_BYTES = 64 << 20  # kPieceBytes of plugins/dense_path/pieces.h


@dataclass(frozen=True)
class Linear:
    """Y = X Wᵀ with W [out_features, in_features].

    share: the share of its slabs that are 2:4; others: shares of its slabs of other kinds that prune; weights: type of
    the weights. gated: True for a gate and its up in one node, whose rows are those of both; Y has half as many columns.
    """

    out_features: int
    in_features: int
    share: float
    panel_rows: int = 128
    others: tuple[tuple[TileKind, float], ...] = ()
    weights: WeightType = FLOAT16
    gated: bool = False

    @property
    def pruned(self) -> tuple[tuple[TileKind, float], ...]:
        return ((TWO_FOUR, self.share), *self.others)

    def products(self, sparse: float = 0.5) -> float:
        """Returns the time of its products over those of a dense linear. sparse: this time for 2:4."""
        return 1.0 - sum(share * (1.0 - kind.products(sparse)) for kind, share in self.pruned)

    def problem(self, tokens: int) -> Problem:
        """Returns the schedule's problem for `tokens` rows of X."""
        columns = self.out_features // (1 + self.gated)
        slabs = -(-self.out_features // self.panel_rows) * -(-self.in_features // SLAB_K)
        kinds = kinds_of(self.weights)
        counts = [0] * len(kinds)
        for kind, share in self.pruned:
            counts[kinds.index(kind)] = round(share * slabs)
        counts[kinds.index(DENSE)] = max(0, slabs - sum(counts))
        return Problem(
            tokens, columns, self.in_features, self.panel_rows, tuple(counts), self.weights, self.gated
        )


@dataclass(frozen=True)
class Prediction:
    """Prediction for a hybrid linear.

    microseconds: time of the hybrid linear; bound: the largest part of it, "bytes", "tensor", "shared", "l2", "issue"
    or "launch"; share: the roof of its own bytes and products over its time; config: configuration of the kernels, or
    DENSE_PATH; slower: set if it is slower than the dense product because of Hopper's tensor cores.
    """

    microseconds: float
    bound: str
    dense_microseconds: float
    dense_bound: Bound
    share: float
    config: str
    parts: int
    slower: Slower | None = None

    @property
    def speedup(self) -> float:
        return self.dense_microseconds / self.microseconds


def speedup_limit(share: float, bound: str) -> float:
    """Returns the limit of a hybrid kernel's speed-up over a dense one bound by "bytes" or "tensor" cores.

    share: of the weights, in 2:4 tiles; the others are in dense ones.
    """
    saved = 1 - TWO_FOUR.bytes_per_weight / BYTES_DENSE if bound == "bytes" else TWO_FOUR.zeros
    return 1 / (1 - saved * share)


def dense_time(
    card: RatedCard, shape: Linear, tokens: int, assume: Assumptions = ASSUMED
) -> tuple[float, Bound]:
    """Returns the microseconds of the dense product with 16-bit weights, and its bound."""
    return library_time(card, (shape.out_features, shape.in_features), tokens, assume)


def dense_path_time(card: RatedCard, shape: Linear, tokens: int, assume: Assumptions = ASSUMED) -> float:
    """Returns the microseconds of unpacking whole slabs of W and of the dense product, both piece by piece.

    With int8 inputs the product is between kernels that round X and scale the sums of each piece. It assumes that unpacked
    weights are written to DRAM and read from there. L2 would hold a part of them.
    """
    problem = shape.problem(tokens)
    rounds, panels = shape.weights.input_bits == 8, problem.panels
    panel = shape.weights.input_bits // 8 * shape.panel_rows * -(-shape.in_features // SLAB_K) * SLAB_K
    sums = 4 * shape.panel_rows * tokens if rounds else 0
    pieces = -(-panels // max(1, min(panels, _PIECE_BYTES // (panel + sums))))
    moved = weight_bytes(problem) + panel * panels
    if rounds:
        product, launches = dense_w8a8_time(card, (shape.out_features, shape.in_features), tokens, assume), 3
    else:
        product, launches = dense_time(card, shape, tokens, assume)[0], 2
    more = launches * (pieces - 1) + 1  # than a product of one piece has
    return moved / rates_of(card, assume).bytes + product + more * first_bytes(card, assume)


def predict(
    card: RatedCard,
    shape: Linear,
    tokens: int,
    config: int | None = None,
    assume: Assumptions = ASSUMED,
    parts: int | None = None,
) -> Prediction:
    """Predict the time of a hybrid linear and of the dense one. Raises ValueError if no configuration fits.

    With int8 inputs, the kernel that rounds X counts too.

    config: None takes the plugin's choice, and on Hopper, and everywhere with slabs of n:16 or integer weights with 16-bit
    inputs, the faster of the kernels and the dense path, which TensorRT chooses by timing. parts: None takes the plugin's
    choice. The dense product has 16-bit weights.
    """
    kernels = _by_kernels(card, shape, tokens, config, assume, parts)
    # plugins/dense_path/choice.h
    gains_densely = (
        shape.weights.widened or card.rates.mma < 1 or (shape.weights.input_bits == 16 and bool(shape.others))
    )
    if config is not None or not gains_densely or shape.out_features % 8 or shape.in_features % 8:
        return kernels
    dense_path = dense_path_time(card, shape, tokens, assume)
    if dense_path >= kernels.microseconds:
        return kernels
    speedup = kernels.dense_microseconds / dense_path
    return replace(
        kernels,
        microseconds=dense_path,
        bound=kernels.dense_bound,
        share=kernels.share * kernels.microseconds / dense_path,
        config=DENSE_PATH,
        parts=1,
        slower=Slower(way=Way.DENSE_PATH, speedup=speedup) if speedup < 1 else None,
    )


def _by_kernels(
    card: RatedCard,
    shape: Linear,
    tokens: int,
    config: int | None,
    assume: Assumptions,
    parts: int | None,
) -> Prediction:
    """Predict a hybrid linear that the kernels compute, without the dense path. Arguments and errors: see `predict`."""
    problem = shape.problem(tokens)
    number, chosen_parts = choose_schedule(problem, limits_of(card), config)
    if number < 0:
        raise ValueError(f"no configuration {config} for panels of {problem.panel_rows} rows")
    kernel, parts = CONFIGS[number], parts or chosen_parts
    launch, bound = _launch_time(card, problem, kernel, parts, assume)
    dense, dense_bound = dense_time(card, shape, tokens, assume)
    rounds = shape.weights.input_bits == 8
    own = launch - (_saved_early(card, kernel, assume) if rounds else 0.0)
    total = max(own, _at_best(card, shape, tokens, assume))
    if rounds:
        total += quantise_time(card, tokens, shape.in_features, assume)
    rate = card.products(shape.weights.input_bits).dense * 1e6
    least = max(
        (weight_bytes(problem) + 2 * tokens * (shape.in_features + shape.out_features))
        / (card.bandwidth * 1e3),
        2 * tokens * shape.out_features * shape.in_features * shape.products() / rate,
    )
    slower = _slower_than_wgmma(card, dense / total, bound)
    return Prediction(total, bound, dense, dense_bound, least / total, kernel.name, parts, slower)


def _at_best(card: RatedCard, shape: Linear, tokens: int, assume: Assumptions) -> float:
    """Returns the microseconds that the best library would take for the bytes and products of a hybrid linear.

    No kernel of ours is assumed to beat cuBLASLt, whose published times have edges that the work of our kernels lacks.
    """
    weights = shape.out_features * shape.in_features
    if not weights:
        return 0.0
    inputs = shape.weights.input_bits
    each = Weights(
        weight_bytes(shape.problem(tokens)) / weights,
        shape.products(sparse_products(card, assume, inputs)),
        inputs=inputs,
    )
    return product_time(card, (shape.out_features, shape.in_features), tokens, assume, each)[0]


def _saved_early(card: RatedCard, config: Config, assume: Assumptions) -> float:
    """Returns the microseconds that a product saves behind the kernel that rounds X, which lets it begin early.

    The gap between the kernels is gone; a stream has also asked for its first slabs by then.
    """
    if card.sm < FIRST_THAT_WAITS:
        return 0.0
    asked = first_bytes(card, assume) - assume.launch - l2_trip(card, assume)
    return assume.launch + (asked if config.streams else 0.0)


def _launch_time(
    card: RatedCard, problem: Problem, config: Config, parts: int, assume: Assumptions
) -> tuple[float, str]:
    """Returns the microseconds of a launch of the kernels by their own work, and what bounds them."""
    rates = rates_of(card, assume, problem.weights.input_bits)
    work = work_of(card, config, problem, parts, assume)
    # Little's law: bytes in flight over latency, in clocks, when all of DRAM's bandwidth is used.
    latency = assume.loaded * assume.dram_latency / rates.clocks
    moved = work.bytes * max(1 / rates.bytes, latency / work.inflight)
    computed = sum(work.clocks.values()) / rates.clocks
    fixed = first_bytes(card, assume) + work.edges
    bound = "bytes" if moved >= computed else max(work.clocks, key=lambda name: work.clocks[name])
    if fixed > max(moved, computed):
        bound = "launch"
    return fixed + max(moved, computed), bound


def _slower_than_wgmma(card: RatedCard, speedup: float, bound: str) -> Slower | None:
    """Returns the slowdown of the kernels on Hopper, or None on other cards and if bytes are their limit.

    The tensor cores of Hopper reach their full rate only by wgmma: an all-2:4 product by mma.sp takes 1.62 times the
    dense one's time on an H100 (NVIDIA/cutlass issue 1335), and arXiv 2402.13499 finds mma.sync below wgmma.
    """
    if card.rates.mma == 1 or bound in ("bytes", "launch") or speedup >= 1:
        return None
    return Slower(way=Way.MMA_SP, speedup=speedup)
