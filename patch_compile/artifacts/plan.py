"""The plan of a build as data: OUT/plan.json, and the plan in report.json.

It holds no sentences. `patch_compile.report.prediction` puts it into words.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Annotated, ClassVar, Literal, Self

from pydantic import model_validator

from masklearn.masks.kinds.table import DENSE, TWO_FOUR
from masklearn.masks.record import ChoiceRecord
from masklearn.quant.table import FLOAT16, weight_type
from patch_compile.artifacts.layout import PLAN
from patch_compile.artifacts.prediction import CardRow, WholeRow, Workload
from patch_compile.artifacts.record import FileRecord, Record, Unit, shown

Lowering = Literal["plugin", "split", "dense"]
Bound = Literal["bytes", "tensor"]  # the limit of a dense GEMM
Shape = tuple[int, int]


class Way(StrEnum):
    """Ways to multiply many rows of X where dense GEMMs outrun our kernels (docs/explanation/performance.md)."""

    DENSE_PATH = "dense-path"  # the weight is unpacked, and cuBLASLt multiplies it
    MMA_SP = "mma.sp"  # the plugin's own kernels


class Slower(Record):
    """A hybrid GEMM that is slower than the dense GEMM, because our kernels can't use the tensor cores' full rate.

    speedup: dense over hybrid time, below 1.
    """

    way: Way
    speedup: float


class ReasonKind(StrEnum):
    """Reasons why a linear is not lowered as `plugin`."""

    NOT_COVERED = "not-covered"
    ASKED = "asked"  # --lowering asks for another lowering
    NO_SPARSE_TILE = "no-sparse-tile"
    SMALL_TILES = "small-tiles"  # no slab lies only in 2:4 tiles
    SMALL_LINEAR = "small-linear"  # even with all tiles 2:4 it is predicted no faster than dense
    # With all tiles 2:4 it would be faster, with the tiles of its mask it is not.
    LITTLE_SPARSE = "little-sparse"
    PROMPTS = "prompts"  # prompts, or whole texts, lose more time than decode steps gain
    DENSE_PRODUCT = "dense-product"  # one dense GEMM with other linears of its input is faster
    # The next four are reasons for linears of a graph that another program exported.
    NOT_IN_GRAPH = "not-in-graph"  # no weight of the graph has its values
    READ_TWICE = "read-twice"  # more than one GEMM reads its weight
    READ_OTHERWISE = "read-otherwise"  # an operation other than a GEMM reads its weight too
    ALIKE = "alike"  # another linear has the same values, and the graph's names do not tell them apart

    @property
    def by_time(self) -> bool:
        """True if only predicted times decided."""
        kinds = (
            ReasonKind.SMALL_LINEAR,
            ReasonKind.LITTLE_SPARSE,
            ReasonKind.PROMPTS,
            ReasonKind.DENSE_PRODUCT,
        )
        return self in kinds


class Reason(Record):
    """The reason why a linear is not lowered as `plugin`, with the facts behind it.

    card: the card whose times decided. tile: the size of the mask's tiles, for SMALL_TILES. slower: for PROMPTS.
    product: last parts of the names of the other linears in the dense GEMM, for DENSE_PRODUCT.
    """

    kind: ReasonKind
    card: str | None = None
    tile: Shape | None = None
    slower: Slower | None = None
    product: tuple[str, ...] = ()


class Node(Record):
    """The PatchLinear node that computes a linear.

    linears: all linears that the node computes, in the order of their rows: one; a gate and its up in a gated node; or
    several linears of one input. activation, residual: operations that the node does after the GEMM.
    """

    name: str
    linears: tuple[str, ...]
    activation: Literal["", "gelu", "gelu_tanh", "silu"] = ""
    gated: bool = False
    residual: bool = False


class Times(Record):
    """Predicted microseconds of a linear in one phase: dense, with its mask, and with all tiles 2:4.

    dense: with 16-bit weights; alike: the same with quantised weights of the linear's type, all its slabs dense; None for
    16-bit weights. library: the same by a library's GEMM that scales its sums itself, None for types that no library
    multiplies. fp8: dense in fp8 by a library, None if the card has no fp8. bound: the limit of the dense GEMM. slower:
    set if the card's tensor cores make the hybrid GEMM slower than the dense GEMM.
    """

    dense: Annotated[float, shown("dense", Unit.MICROSECONDS)]
    alike: float | None = None
    library: float | None = None
    fp8: float | None = None
    hybrid: Annotated[float, shown("hybrid", Unit.MICROSECONDS)]
    sparse: Annotated[float, shown("2:4", Unit.MICROSECONDS)]
    bound: Bound
    slower: Slower | None = None

    @property
    def unpruned(self) -> float:
        """Returns the microseconds of the dense linear with weights of its own type."""
        return self.dense if self.alike is None else self.alike

    @property
    def baseline(self) -> float:
        """Returns the microseconds of the fair dense linear with weights of its own type: the library's, if it has one."""
        return self.unpruned if self.library is None else self.library


class LinearTimes(Record):
    """Predicted times of one linear on its own: for all prompts, and in one decode step."""

    prefill: Annotated[Times, shown("prefill", Unit.MICROSECONDS)]
    decode: Annotated[Times, shown("decode step", Unit.MICROSECONDS)]


class TileCount(Record):
    """Numbers of tiles of a mask. sparse: pruned tiles."""

    sparse: int
    all: int


class Slabs(Record):
    """Numbers of slabs of a packed weight. sparse: 2:4 slabs; others: by the name of another kind."""

    dense: int
    sparse: int
    others: Mapping[str, int] = {}

    @property
    def by_kind(self) -> dict[str, int]:
        return {DENSE.name: self.dense, TWO_FOUR.name: self.sparse, **self.others}

    @property
    def any_pruned(self) -> bool:
        """True if slabs of a kind that prunes are counted, even if only linears of the same node have some."""
        return bool(self.sparse or self.others)

    @property
    def all_dense(self) -> Slabs:
        return Slabs(dense=sum(self.by_kind.values()), sparse=0)


class SplitRow(Record):
    """A linear as ordinary GEMMs: their number, and the weights in 2:4 GEMMs."""

    products: int
    sparse_weights: int


class LinearRow(Record):
    """Lowering of one linear `[N, K]`, with the bytes of its 16-bit weight and of the constants that replace it.

    reason: set if the lowering is not `plugin`, or if quantised weights have only dense slabs; node: set if it is `plugin`;
    weights: name of the weights' type. predicted: None if the card is unknown.
    """

    name: str
    shape: Shape
    zeroed: int
    tiles: TileCount
    lowering: Lowering
    reason: Reason | None
    node: Node | None
    weights: str = FLOAT16.name
    panel_rows: int
    slabs: Slabs
    bytes_before: int
    bytes_after: int
    predicted: LinearTimes | None
    split: SplitRow | None

    @model_validator(mode="after")
    def _check(self) -> Self:
        plugin, quantised = self.lowering == "plugin", weight_type(self.weights).quantised
        if plugin != (self.node is not None) or (not quantised and plugin != (self.reason is None)):
            raise ValueError(f"{self.name}: a linear has a node, or a reason why it has none")
        return self

    @property
    def saved_bytes(self) -> int:
        return self.bytes_before - self.bytes_after


class Totals(Record):
    """Bytes of linears."""

    bytes_before: Annotated[int, shown("before", Unit.MEGABYTES)]
    bytes_after: Annotated[int, shown("after", Unit.MEGABYTES)]

    @classmethod
    def of(cls, rows: Sequence[LinearRow]) -> Self:
        before, after = sum(row.bytes_before for row in rows), sum(row.bytes_after for row in rows)
        return cls(bytes_before=before, bytes_after=after)


class Unpredicted(StrEnum):
    """Reasons why a plan has no predicted times."""

    NO_CARD = "no-card"  # the table has no data sheet for the target
    NO_CHECKPOINT = "no-checkpoint"  # an ONNX file does not tell prompts from decode steps


class PlanSummary(Record):
    """Summary of a plan for the whole model. card, workload and whole are None without predictions."""

    card: CardRow | None = None
    workload: Workload | None = None
    totals: Totals
    whole: WholeRow | None = None
    unpredicted: Unpredicted | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        known = {bool(self.card), bool(self.workload), bool(self.whole), not self.unpredicted}
        if len(known) > 1:
            raise ValueError("a plan has a card, a workload and times, or why it has none")
        return self


class Plan(FileRecord, PlanSummary):
    """OUT/plan.json: the lowering of every covered linear. choice: of the masks, None for masks that were published."""

    SCHEMA: ClassVar[int] = 3
    WHAT: ClassVar[str] = "a plan"
    PLACE: ClassVar[str] = PLAN

    linears: tuple[LinearRow, ...]
    choice: ChoiceRecord | None = None

    @property
    def summary(self) -> PlanSummary:
        return PlanSummary(**{name: getattr(self, name) for name in PlanSummary.model_fields})

    @property
    def packed(self) -> list[str]:
        """Returns the names of the linears that are not lowered as an ordinary dense GEMM."""
        return [row.name for row in self.linears if row.lowering != "dense"]

    @property
    def saved_bytes(self) -> int:
        return sum(row.saved_bytes for row in self.linears)


class Asked(Record):
    """The amount of pruning as the user gave it. Exactly one field is set."""

    ratio: float | str | None = None
    bytes_per_weight: float | None = None
    mask: str | None = None
    speedup: float | None = None
    budget_ms: float | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        if len(self.model_dump(exclude_none=True)) != 1:
            raise ValueError("exactly one amount can be asked for")
        return self


class LittleGain(Record):
    """What is better than a plan whose pruned tiles gain less than `PAYS`, as predicted.

    by_tiles: speed-up of the whole workload by tiles. unpruned: speed-up over dense 16-bit weights without pruned tiles,
    with the types of the plan, or with the one type `weights` if it is faster by more than `PAYS`, or if the types of the
    plan are slower than 16 bits. tokens: the fewest tokens of prefill with which tiles gain `PAYS`, None if they never do.
    """

    by_tiles: float
    weights: str | None = None
    unpruned: float
    tokens: int | None = None


class Skipped(Record):
    """A linear that stays dense, and the reason."""

    name: str
    reason: str
