"""The result of `patch-compile plan` as data: a plan, its memory, and how other types of weights would do."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, ClassVar

from pydantic import Field

from masklearn.quant.table import FLOAT16
from patch_compile.artifacts.plan import Asked, LittleGain, Plan, Skipped
from patch_compile.artifacts.prediction import CardRow, WholeRow
from patch_compile.artifacts.record import Record, Unit, shown


class Memory(Record):
    """Bytes of the whole model on a card: its weights, dense and as planned, and the KV cache of the workload.

    Activations and workspace come on top. card: memory of one card.
    """

    dense_weights: int
    weights: int
    cache: int
    card: int = Field(gt=0)

    @property
    def needed(self) -> int:
        return self.weights + self.cache

    @property
    def fits(self) -> bool:
        return self.needed <= self.card

    @property
    def cards(self) -> int:
        return -(-self.needed // self.card)


class TargetSource(StrEnum):
    """Origins of a plan's target."""

    ASKED = "asked"
    LOCAL_GPU = "local-gpu"
    DEFAULT = "default"  # without a target and a GPU


class OtherTypes(Record):
    """The plan of the same request with other types of weights.

    weights: a value of `--weights`; planned: True for the types of the plan itself. Bytes count the covered linears, and all
    weights of the model. whole: None if the goal of speed is out of reach, if `unfit` is set, which is the name of a linear
    whose weights can't have this type, or if `wrong_kinds` is, because tiles of the requested kinds can't have it.
    """

    weights: Annotated[str, shown("weights", Unit.WORDS)]
    planned: bool = False
    ratio: Annotated[float, shown("ratio", Unit.RATIO)] = 0.0
    linears_bytes: Annotated[int, shown("linears", Unit.BYTES)] = 0
    model_bytes: Annotated[int, shown("model", Unit.BYTES)] = 0
    whole: WholeRow | None = None
    unfit: str | None = None
    wrong_kinds: bool = False


class TargetRow(Record):
    """The plan of the same request for one of several targets.

    card: None if no speed is predicted for the target; fits: False if the model does not fit on the card;
    whole: None unless it fits, and if the goal of speed is out of reach.
    """

    target: Annotated[str, shown("target", Unit.WORDS)]
    card: CardRow | None = None
    fits: bool = True
    ratio: Annotated[float | None, shown("ratio", Unit.RATIO)] = None
    whole: WholeRow | None = None


class RegimePoint(Record):
    """Predicted speed-up of the whole model for so many tokens: a prompt, or an encoder's sequences of one length.

    by_tiles: over the same plan without pruned tiles.
    """

    tokens: int
    sequences: int = 1
    speedup: float
    by_tiles: float


class Tried(Record):
    """Size or kinds of tiles that were tried because the recipe left them open.

    value: a value of `--tile` or `--kinds`; figure: predicted with it: for sizes the ratio that a speed takes if all zeros
    lose alike, None if no ratio reaches the speed, and for kinds the speed-up of the whole workload, end to end.
    """

    value: str
    figure: float | None


class PlanOfModel(Plan):
    """Result of `patch-compile plan` for a model.

    target: the requested target, or the GPU's name; ratio: of all covered weights; kinds: kinds that tiles may have;
    weights: types that the linears have, a value of `--weights`; assumes_losses: True if the types were chosen, by losses
    that were measured on another model; dequantised: number of linears that are quantised with zero points or to fp8, and
    so have 16-bit weights unless others are requested; types: the same request with one type for all linears; regime: the
    speed-up over the tokens of a prompt; targets: a row for each if there are several; tried: sizes or kinds of tiles, the
    taken first; little_gain: set if pruning is not worth its loss; by_split: speed-up of an encoder in W8A8 with its linears
    split, None if that is not predicted to be faster.
    """

    WHAT: ClassVar[str] = "a plan of a model"

    model: str
    asked: Asked
    target: str
    target_source: TargetSource
    memory: Memory
    ratio: float
    kinds: str = "2:4"
    weights: str = FLOAT16.name
    assumes_losses: bool = False
    types: tuple[OtherTypes, ...] = ()
    dequantised: int = 0
    regime: tuple[RegimePoint, ...] = ()
    targets: tuple[TargetRow, ...] = ()
    tried: tuple[Tried, ...] = ()
    little_gain: LittleGain | None = None
    by_split: float | None = None
    skipped: tuple[Skipped, ...]
