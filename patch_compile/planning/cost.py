"""Predicted microseconds of one linear: dense, hybrid and all 2:4, for the prompt and for a decode step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Literal

from masklearn.masks.kinds.table import DENSE, KINDS, TWO_FOUR
from masklearn.quant.table import FLOAT16, WeightType
from patch_compile.artifacts.plan import LinearTimes, Reason, ReasonKind, SplitRow, Times
from patch_compile.artifacts.prediction import Workload
from patch_compile.hardware.cards import RatedCard
from patch_compile.planning.cards import PlanCard
from patch_compile.planning.roofline.assumptions import Assumptions
from patch_compile.planning.roofline.library_product import (
    dense_fp8_time,
    dense_w8a8_time,
    first_bytes,
    library_time,
    quantise_time,
)
from patch_compile.planning.roofline.linear_roofline import DENSE_PATH, Linear, Prediction, predict
from patch_compile.planning.roofline.rest import gating_time

Shape = tuple[int, int]
TimeOf = Literal["dense", "unpruned", "hybrid", "sparse"]


@dataclass(frozen=True)
class CostModel:
    """The roofline of a card under a workload."""

    card: PlanCard
    workload: Workload

    def of(
        self,
        shape: Shape,
        panel_rows: int,
        slabs: Mapping[str, int],
        *,
        gated: bool = False,
        weights: WeightType = FLOAT16,
    ) -> LinearTimes:
        """Returns the times of a linear `[N, K]` that is packed in so many slabs. slabs: by the name of their kind.

        gated: True for a gate and its up, whose node computes their SiLU·mul too; weights: type of the weights.
        """
        total = sum(slabs.values())
        share = slabs.get(TWO_FOUR.name, 0) / total
        others = tuple(
            (kind, slabs[kind.name] / total)
            for kind in KINDS
            if kind not in (DENSE, TWO_FOUR) and slabs.get(kind.name)
        )

        def times(tokens: int) -> Times:
            linear = Linear(*shape, share, panel_rows, others, weights, gated)
            return _times(self.card.rated, linear, tokens, self.card.assume)

        return LinearTimes(prefill=times(self.workload.prefill_tokens), decode=times(self.workload.batch))

    def of_split(self, linears: Sequence[tuple[Shape, SplitRow]], weights: WeightType) -> LinearTimes:
        """Returns the times of linears `[N, K]` of one X, each divided into ordinary GEMMs.

        GEMMs take as long as in NVIDIA's libraries, and the 2:4 GEMMs as long as in cuSPARSELt: which tactics TensorRT
        chooses is unknown. In W8A8 one kernel rounds X for all of them.
        """
        card, assume, columns = self.card.rated, self.card.assume, linears[0][0][1]

        def times(tokens: int) -> Times:
            def product(rows: int, *, sparse: bool) -> float:
                shape = rows, columns
                return library_time(card, shape, tokens, assume, sparse=sparse, weights=weights, fused=True)[
                    0
                ]

            rounding = quantise_time(card, tokens, columns, assume) if weights.input_bits == 8 else 0.0
            every, parts = sum(rows for (rows, _), _ in linears), 0.0
            for (rows, _), split in linears:
                two_four = split.sparse_weights // columns
                cut = ((two_four, True), (rows - two_four, False))
                own = [product(count, sparse=sparse) for count, sparse in cut if count]
                parts += sum(own) + (split.products - len(own)) * first_bytes(card, assume)
            dense, bound = library_time(card, (every, columns), tokens, assume)
            alike = rounding + product(every, sparse=False) if weights.quantised else None
            return Times(
                dense=dense,
                alike=alike,
                library=alike,
                fp8=dense_fp8_time(card, (every, columns), tokens, assume),
                hybrid=rounding + parts,
                sparse=rounding + product(every, sparse=True),
                bound=bound,
            )

        return LinearTimes(prefill=times(self.workload.prefill_tokens), decode=times(self.workload.batch))

    def total(self, times: LinearTimes, of: TimeOf) -> float:
        """Returns the microseconds of a linear in the whole workload. of: which time of `Times`."""
        return self.workload.total(getattr(times.prefill, of), getattr(times.decode, of))

    def gating(self, intermediate: int) -> float:
        """Returns the microseconds that SiLU·mul as a kernel of its own adds to the whole workload.

        0 if the times of a gate and its up in one node are without it already.
        """
        if self.card.assume.gating:
            return 0.0
        tokens = self.workload.prefill_tokens, self.workload.batch
        return self.workload.total(
            *(gating_time(self.card.rated, intermediate, many, self.card.assume) for many in tokens)
        )

    def why_dense(self, times: LinearTimes) -> Reason | None:
        """Returns the reason why dense weights of the same type are faster for the workload, or None if they are not."""
        dense, card = self.total(times, "unpruned"), self.card.name
        if self.total(times, "hybrid") < dense:
            return None
        if self.total(times, "sparse") < dense:
            return Reason(kind=ReasonKind.LITTLE_SPARSE, card=card)
        if times.prefill.slower and (self.workload.steps == 0 or times.decode.sparse < times.decode.unpruned):
            return Reason(kind=ReasonKind.PROMPTS, card=card, slower=times.prefill.slower)
        return Reason(kind=ReasonKind.SMALL_LINEAR, card=card)


@cache
def _times(card: RatedCard, linear: Linear, tokens: int, assume: Assumptions) -> Times:
    """Returns the times of a linear for `tokens` rows of X."""
    planned, all_sparse = (
        predict(card, each, tokens, assume=assume) for each in (linear, replace(linear, share=1.0, others=()))
    )
    counted = linear.gated and assume.gating
    gating = gating_time(card, linear.out_features // 2, tokens, assume) if counted else 0.0

    def less_gating(product: Prediction) -> float:
        # On the dense path the epilogue is a separate kernel, as in the dense model, unless it is in the kernel that scales
        # the sums of integers.
        apart = product.config == DENSE_PATH and linear.weights.input_bits == 16
        return product.microseconds - (0.0 if apart else gating)

    alike = library = None
    shape = (linear.out_features, linear.in_features)
    if linear.weights.input_bits == 8:
        library = dense_w8a8_time(card, shape, tokens, assume, fused=True)
    if linear.weights.quantised:
        unpruned = replace(linear, share=0.0, others=())
        alike = less_gating(predict(card, unpruned, tokens, assume=assume))
    return Times(
        dense=planned.dense_microseconds,
        alike=alike,
        library=library,
        fp8=dense_fp8_time(card, shape, tokens, assume),
        hybrid=less_gating(planned),
        sparse=less_gating(all_sparse),
        bound=planned.dense_bound,
        slower=planned.slower,
    )
