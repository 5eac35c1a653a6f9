"""The plan as data: OUT/plan.json, what `patch-compile plan --json` prints, and the plan in report.json.

Nothing here is a sentence: `patch_compile.report.prediction` makes the words that a person reads of it.
"""

from __future__ import annotations

from enum import StrEnum
from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from patch_compile.out.layout import PLAN
from patch_compile.out.record import FileRecord, Record

__all__ = [
    "Asked",
    "Bound",
    "Calibration",
    "CardRow",
    "LinearRow",
    "LinearTimes",
    "Lowering",
    "Node",
    "PhaseRow",
    "Plan",
    "PlanOfModel",
    "PlanSummary",
    "Reason",
    "ReasonKind",
    "Skipped",
    "Slabs",
    "Slower",
    "SplitRow",
    "TargetSource",
    "TileCount",
    "Times",
    "Totals",
    "Unpredicted",
    "Way",
    "WholeRow",
    "WorkloadRow",
]

Lowering = Literal["plugin", "split", "dense"]
Bound = Literal["bytes", "tensor"]  # what limits a dense product
Shape = tuple[int, int]


class Way(StrEnum):
    """How a card whose dense products are faster than any of ours multiplies many rows of X (docs/performance.md)."""

    DENSE_PATH = "dense-path"  # the weight is unpacked, and cuBLASLt multiplies it
    MMA_SP = "mma.sp"  # the plugin's own kernels


class Slower(Record):
    """A hybrid product that takes longer than the dense one, for the card's tensor cores do not run it at full rate.

    speedup: dense over hybrid time, below 1.
    """

    way: Way
    speedup: float


class ReasonKind(StrEnum):
    """Why a linear is not `plugin`."""

    NOT_COVERED = "not-covered"
    ASKED = "asked"  # by --lowering
    NO_SPARSE_TILE = "no-sparse-tile"
    SMALL_TILES = "small-tiles"  # no slab lies in 2:4 tiles alone
    SMALL_LINEAR = "small-linear"  # even all 2:4 it is predicted no faster than dense
    LITTLE_SPARSE = "little-sparse"  # all 2:4 it would be faster, as it is it is not
    PROMPTS = "prompts"  # what decode steps gain, prompts lose
    DENSE_PRODUCT = "dense-product"  # faster in one dense product with others of the same input

    @property
    def by_time(self) -> bool:
        """True where predicted times alone decided."""
        return self in _BY_TIME


_BY_TIME = {
    ReasonKind.SMALL_LINEAR,
    ReasonKind.LITTLE_SPARSE,
    ReasonKind.PROMPTS,
    ReasonKind.DENSE_PRODUCT,
}


class Reason(Record):
    """Why a linear is not `plugin`, with what that rests on.

    card: whose times decided. tile: the size of the mask's tiles, for SMALL_TILES. slower: for PROMPTS. product: last parts
    of the names of the others in the dense product, for DENSE_PRODUCT.
    """

    kind: ReasonKind
    card: str | None = None
    tile: Shape | None = None
    slower: Slower | None = None
    product: tuple[str, ...] = ()


class Node(Record):
    """The PatchLinear node that computes a linear.

    linears: all that it computes, in the order of their rows; several are a gate and its up where it is gated, else linears
    of one input. activation, residual: what it does after the product.
    """

    name: str
    linears: tuple[str, ...]
    activation: Literal["", "gelu", "gelu_tanh", "silu"] = ""
    gated: bool = False
    residual: bool = False


class Times(Record):
    """Predicted microseconds of a linear in one phase: dense, as its mask is, and with all tiles 2:4.

    bound: what limits the dense product. slower: set where the card's tensor cores make the hybrid product the slower one.
    """

    dense: float
    hybrid: float
    sparse: float
    bound: Bound
    slower: Slower | None = None


class LinearTimes(Record):
    """One linear on its own: for all prompts, and in one decode step."""

    prefill: Times
    decode: Times


class TileCount(Record):
    """Tiles of a mask."""

    sparse: int
    all: int


class Slabs(Record):
    """Slabs of a packed weight."""

    dense: int
    sparse: int


class SplitRow(Record):
    """A linear as ordinary products: groups of tile rows, products in all, and weights in 2:4 products."""

    groups: int
    products: int
    sparse_weights: int


class LinearRow(Record):
    """How one linear `[N, K]` is compiled. Bytes are those of the 16-bit weight, and of the constants that replace it.

    reason: set where it is not `plugin`; node: where it is. predicted: None where nothing is known of the card.
    """

    name: str
    shape: Shape
    zeroed: int
    tiles: TileCount
    lowering: Lowering
    reason: Reason | None
    node: Node | None
    panel_rows: int
    slabs: Slabs
    bytes_before: int
    bytes_after: int
    predicted: LinearTimes | None
    split: SplitRow | None

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.lowering == "plugin") != (self.node is not None) or (self.reason is None) != bool(self.node):
            raise ValueError(f"{self.name}: a linear has a node, or a reason why it has none")
        return self

    @property
    def saved_bytes(self) -> int:
        """Bytes that packing saves."""
        return self.bytes_before - self.bytes_after


class Calibration(Record):
    """Assumptions of the roofline under which it best predicts the times that `bench --calibrate` measured on a GPU.

    gpu: its name; card: the row of the table of cards; own: the row is this GPU's own, not one that stands for it.
    clocks: medians in MHz, None where they were not recorded. assumptions: those of `Assumptions` that are not as assumed.
    left: those that these times do not tell, and why. times: how many; error: median share by which predictions miss them,
    before and after.
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

    def __hash__(self) -> int:  # dicts have none, and plans are cached by their card
        return hash(self.model_dump_json())


class CardRow(Record):
    """The card that a plan is predicted for. stands_for: the target that has no data sheet of its own, or ""."""

    name: str
    stands_for: str = ""
    calibration: Calibration | None = None

    def __str__(self) -> str:
        name = f"{self.name}, which stands for {self.stands_for}" if self.stands_for else self.name
        if found := self.calibration:
            return f"{name} (calibrated by times measured on {found.gpu} on {found.date[:10]})"
        return name


class WorkloadRow(Record):
    """`batch` sequences of `prompt` tokens each, after which `generated` ones are sampled, the first by the prompt."""

    batch: int
    prompt: int
    generated: int

    def __str__(self) -> str:
        if self.generated == 1:
            return f"batch {self.batch}, {self.prompt} tokens"
        return f"batch {self.batch}, {self.prompt} prompt + {self.generated} generated tokens"


class PhaseRow(Record):
    """Predicted milliseconds of a phase, dense over planned time, and what no plan at this ratio can pass."""

    dense_ms: float
    planned_ms: float
    speedup: float
    limit: float


class WholeRow(Record):
    """The whole model: all prompts, all decode steps after them, and both."""

    prefill: PhaseRow
    decode: PhaseRow
    end_to_end: PhaseRow


class Totals(Record):
    """Bytes of all covered linears."""

    bytes_before: int
    bytes_after: int


class Unpredicted(StrEnum):
    """Why no times are predicted."""

    NO_CARD = "no-card"  # the table has no data sheet for the target
    NO_CHECKPOINT = "no-checkpoint"  # an ONNX file does not tell prompts from decode steps


class PlanSummary(Record):
    """What a plan says of the whole model; card, workload and whole are None where nothing is predicted."""

    card: CardRow | None = None
    workload: WorkloadRow | None = None
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
    """OUT/plan.json: how every covered linear was compiled."""

    SCHEMA: ClassVar[int] = 2  # 1 had sentences for reasons, epilogues, cards and remarks
    WHAT: ClassVar[str] = "a plan"
    PLACE: ClassVar[str] = PLAN

    linears: tuple[LinearRow, ...]

    @property
    def summary(self) -> PlanSummary:
        """The plan without its linears."""
        return PlanSummary(**{name: getattr(self, name) for name in PlanSummary.model_fields})

    @property
    def packed(self) -> list[str]:
        """Names of linears that are not an ordinary dense product."""
        return [row.name for row in self.linears if row.lowering != "dense"]

    @property
    def saved_bytes(self) -> int:
        """Bytes that packing saves."""
        return sum(row.saved_bytes for row in self.linears)


class Asked(Record):
    """How much to prune, as it was asked for: one of these is set."""

    ratio: float | str | None = None
    mask: str | None = None
    speedup: float | None = None
    budget_ms: float | None = None


class TargetSource(StrEnum):
    """Where the target of a plan is from."""

    ASKED = "asked"
    LOCAL_GPU = "local-gpu"
    DEFAULT = "default"  # neither a target nor a GPU


class Skipped(Record):
    """A linear that is left dense, and why."""

    name: str
    reason: str


class PlanOfModel(Plan):
    """What `patch-compile plan` predicts for a model. target: as asked, or the GPU's name; ratio: of all weights."""

    WHAT: ClassVar[str] = "a plan of a model"

    model: str
    asked: Asked
    target: str
    target_source: TargetSource
    ratio: float
    skipped: tuple[Skipped, ...]
