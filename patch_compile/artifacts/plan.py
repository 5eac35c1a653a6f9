"""The plan of a build as data: OUT/plan.json, and the plan in report.json.

It holds no sentences. `patch_compile.report.prediction` puts it into words.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from masklearn.masks.kinds.table import DENSE, TWO_FOUR
from masklearn.quant.table import FLOAT16, weight_type
from patch_compile.artifacts.layout import PLAN
from patch_compile.artifacts.record import FileRecord, Record

__all__ = [
    "Bound",
    "Calibration",
    "CardRow",
    "Gaining",
    "LinearRow",
    "LinearTimes",
    "Lowering",
    "Node",
    "PhaseRow",
    "Plan",
    "PlanSummary",
    "Reason",
    "ReasonKind",
    "Skipped",
    "Slabs",
    "Slower",
    "SplitRow",
    "TileCount",
    "Times",
    "Totals",
    "Unpredicted",
    "Way",
    "WholeRow",
    "Workload",
]

Lowering = Literal["plugin", "split", "dense"]
Bound = Literal["bytes", "tensor"]  # the limit of a dense product
Shape = tuple[int, int]


class Way(StrEnum):
    """Ways to multiply many rows of X where dense products outrun our kernels (docs/explanation/performance.md)."""

    DENSE_PATH = "dense-path"  # the weight is unpacked, and cuBLASLt multiplies it
    MMA_SP = "mma.sp"  # the plugin's own kernels


class Slower(Record):
    """A hybrid product that is slower than the dense one, because our kernels can't use the tensor cores' full rate.

    speedup: dense over hybrid time, below 1.
    """

    way: Way
    speedup: float


class ReasonKind(StrEnum):
    """Reasons why a linear is not lowered as `plugin`."""

    NOT_COVERED = "not-covered"
    ASKED = "asked"  # --lowering asks for another lowering
    NO_SPARSE_TILE = "no-sparse-tile"
    SMALL_TILES = "small-tiles"  # no slab lies in 2:4 tiles alone
    SMALL_LINEAR = "small-linear"  # even with all tiles 2:4 it is predicted no faster than dense
    LITTLE_SPARSE = "little-sparse"  # with all tiles 2:4 it would be faster, with those of its mask it is not
    PROMPTS = "prompts"  # prompts lose more time than decode steps gain
    DENSE_PRODUCT = "dense-product"  # one dense product with other linears of its input is faster
    # The next four are reasons for linears of a graph that another program exported.
    NOT_IN_GRAPH = "not-in-graph"  # no weight of the graph has its numbers
    READ_TWICE = "read-twice"  # more than one product reads its weight
    READ_OTHERWISE = "read-otherwise"  # an operation that is no product reads its weight too
    ALIKE = "alike"  # another linear has the same numbers, and the graph's names do not tell them apart

    @property
    def by_time(self) -> bool:
        """True if predicted times alone decided."""
        return self in _BY_TIME


_BY_TIME = {
    ReasonKind.SMALL_LINEAR,
    ReasonKind.LITTLE_SPARSE,
    ReasonKind.PROMPTS,
    ReasonKind.DENSE_PRODUCT,
}


class Reason(Record):
    """The reason why a linear is not lowered as `plugin`, with the facts behind it.

    card: the card whose times decided. tile: the size of the mask's tiles, for SMALL_TILES. slower: for PROMPTS.
    product: last parts of the names of the other linears in the dense product, for DENSE_PRODUCT.
    """

    kind: ReasonKind
    card: str | None = None
    tile: Shape | None = None
    slower: Slower | None = None
    product: tuple[str, ...] = ()


class Node(Record):
    """The PatchLinear node that computes a linear.

    linears: all linears that the node computes, in the order of their rows: one; a gate and its up in a gated node; or
    several linears of one input. activation, residual: operations that the node does after the product.
    """

    name: str
    linears: tuple[str, ...]
    activation: Literal["", "gelu", "gelu_tanh", "silu"] = ""
    gated: bool = False
    residual: bool = False


class Times(Record):
    """Predicted microseconds of a linear in one phase: dense, with its mask, and with all tiles 2:4.

    dense: with 16-bit weights; alike: the same with quantised weights of the linear's type, all its slabs dense; None for
    16-bit weights. bound: the limit of the dense product. slower: set if the card's tensor cores make the hybrid product
    the slower one.
    """

    dense: float
    alike: float | None = None
    hybrid: float
    sparse: float
    bound: Bound
    slower: Slower | None = None

    @property
    def unpruned(self) -> float:
        """Returns the microseconds of the dense linear with weights of its own type."""
        return self.dense if self.alike is None else self.alike


class LinearTimes(Record):
    """Predicted times of one linear on its own: for all prompts, and in one decode step."""

    prefill: Times
    decode: Times


class TileCount(Record):
    """Numbers of tiles of a mask. sparse: those that are pruned."""

    sparse: int
    all: int


class Slabs(Record):
    """Numbers of slabs of a packed weight. sparse: those of 2:4; others: by the name of another kind."""

    dense: int
    sparse: int
    others: Mapping[str, int] = {}

    @property
    def by_kind(self) -> dict[str, int]:
        """Returns the number of slabs of each kind by its name."""
        return {DENSE.name: self.dense, TWO_FOUR.name: self.sparse, **self.others}

    @property
    def any_pruned(self) -> bool:
        """True if a slab is not dense, or may be: of a kind that only siblings have there are none."""
        return bool(self.sparse or self.others)

    @property
    def all_dense(self) -> Slabs:
        """Returns as many slabs, all dense."""
        return Slabs(dense=sum(self.by_kind.values()), sparse=0)


class SplitRow(Record):
    """A linear as ordinary products: groups of tile rows, products in all, and weights in 2:4 products."""

    groups: int
    products: int
    sparse_weights: int


class LinearRow(Record):
    """Lowering of one linear `[N, K]`. Bytes are those of the 16-bit weight, and of the constants that replace it.

    reason: set if the lowering is not `plugin`, or if quantised weights have dense slabs alone; node: set if it is `plugin`;
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
        """Returns the bytes that packing saves."""
        return self.bytes_before - self.bytes_after


class Calibration(Record):
    """Assumptions of the roofline that best predict the times that were measured on a GPU.

    gpu: its name; card: the row of the table of cards; own: True if the row is this GPU's own, False if it stands for
    it. clocks: medians in MHz, None if they were not recorded. assumptions: those of `Assumptions` that the fit
    changed. left: assumptions that these times do not determine, and why. times: number of times; error: median
    relative error of the predictions, before and after the fit. shipped: True if it came with patch-compile, False if it
    was measured on this machine.
    """

    gpu: str
    card: str
    own: bool
    clocks: dict[str, float] | None
    driver: str | None
    backend: str
    version: str
    date: str
    model: str
    assumptions: dict[str, float]
    left: dict[str, str]
    times: int = Field(ge=2)
    error: dict[str, float]
    shipped: bool = False

    def __hash__(self) -> int:  # dicts have no hash, and plans are cached by their card
        return hash(self.model_dump_json())


class CardRow(Record):
    """The card that a plan is predicted for. stands_for: the target without a data sheet of its own, or ""."""

    name: str
    stands_for: str = ""
    calibration: Calibration | None = None

    def __str__(self) -> str:
        name = f"{self.name}, which stands for {self.stands_for}" if self.stands_for else self.name
        if found := self.calibration:
            whose = "patch-compile's " if found.shipped else ""
            return f"{name} (calibrated by {whose}times measured on {found.gpu} on {found.date[:10]})"
        return name


class Workload(Record):
    """`batch` sequences of `prompt` tokens each, then `generated` sampled tokens, the first of which the prompt gives."""

    batch: int
    prompt: int
    generated: int

    def without_decode(self) -> Self:
        """Returns the workload of an encoder, which generates nothing."""
        return self.model_copy(update={"generated": 1})

    @property
    def steps(self) -> int:
        """Returns the number of decode steps after the prompt."""
        return self.generated - 1

    @property
    def prefill_tokens(self) -> int:
        """Returns the rows of X of a linear for the prompt."""
        return self.batch * self.prompt

    def total(self, prefill: float, decode: float) -> float:
        """Returns the time of the whole workload. prefill: time of the prompt; decode: time of one decode step."""
        return prefill + self.steps * decode

    def __str__(self) -> str:
        if self.generated == 1:
            return f"batch {self.batch}, {self.prompt} tokens"
        return f"batch {self.batch}, {self.prompt} prompt + {self.generated} generated tokens"


class PhaseRow(Record):
    """Predicted milliseconds of a phase, the ratio of dense to planned time, and the limit of any plan at this ratio.

    dense_ms: with dense 16-bit weights; alike_ms: with dense weights of the same types as the plan's, None if those have 16
    bits.
    """

    dense_ms: float
    alike_ms: float | None = None
    planned_ms: float
    speedup: float
    limit: float

    @classmethod
    def of(cls, dense: float, planned: float, limit: float, alike: float | None = None) -> Self:
        """Returns the row of a phase. A phase that does not occur has a speed-up of 1."""
        speedup = dense / planned if planned else 1.0
        return cls(dense_ms=dense, alike_ms=alike, planned_ms=planned, speedup=speedup, limit=limit)

    @property
    def over_alike(self) -> float:
        """Returns the speed-up over dense weights of the same types."""
        if self.alike_ms is None:
            return self.speedup
        return self.alike_ms / self.planned_ms if self.planned_ms else 1.0


class WholeRow(Record):
    """Predicted times of the whole model: all prompts, all decode steps after them, and both."""

    prefill: PhaseRow
    decode: PhaseRow
    end_to_end: PhaseRow

    @classmethod
    def of(cls, prefill: PhaseRow, decode: PhaseRow) -> Self:
        """Returns the times with the sum of both phases. Each phase has its own limit."""
        dense, planned = prefill.dense_ms + decode.dense_ms, prefill.planned_ms + decode.planned_ms
        least = prefill.dense_ms / prefill.limit + decode.dense_ms / decode.limit
        both = (prefill.alike_ms, decode.alike_ms)
        alike = None if None in both else sum(filter(None, both))
        return cls(
            prefill=prefill, decode=decode, end_to_end=PhaseRow.of(dense, planned, dense / least, alike)
        )


class Totals(Record):
    """Bytes of all covered linears."""

    bytes_before: int
    bytes_after: int


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
    """OUT/plan.json: the lowering of every covered linear."""

    SCHEMA: ClassVar[int] = 2  # 1 had sentences for reasons, epilogues, cards and remarks
    WHAT: ClassVar[str] = "a plan"
    PLACE: ClassVar[str] = PLAN

    linears: tuple[LinearRow, ...]

    @property
    def summary(self) -> PlanSummary:
        """Returns the plan without its linears."""
        return PlanSummary(**{name: getattr(self, name) for name in PlanSummary.model_fields})

    @property
    def packed(self) -> list[str]:
        """Returns the names of the linears that are not lowered as an ordinary dense product."""
        return [row.name for row in self.linears if row.lowering != "dense"]

    @property
    def saved_bytes(self) -> int:
        """Returns the bytes that packing saves."""
        return sum(row.saved_bytes for row in self.linears)


class Gaining(Record):
    """The linears that gain by pruning on the target. A ratio counts over these.

    covered: number of covered linears; asked: number of those with a ratio above 0; gaining: number of those that gain;
    ratio: zeroed weights over the weights of these; ratio_of_covered: over the weights of all covered linears.
    """

    covered: int
    asked: int
    gaining: int
    ratio: float
    ratio_of_covered: float


class Skipped(Record):
    """A linear that stays dense, and the reason."""

    name: str
    reason: str
