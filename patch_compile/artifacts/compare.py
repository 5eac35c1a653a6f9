"""The result of `compare` for builds of one model, as `--json` prints it and compare.json holds it.

It holds no sentences. `patch_compile.report.compare` puts it into words.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, ClassVar

from masklearn.masks.kinds.table import DENSE as DENSE_KIND
from masklearn.masks.kinds.table import TWO_FOUR
from patch_compile.artifacts.bench import Library, Phase
from patch_compile.artifacts.manifest import ModelOrigin
from patch_compile.artifacts.prediction import CardRow, Workload
from patch_compile.artifacts.record import Record, Unit, VersionedRecord, shown

DENSE = "the dense model"  # its name among the builds


class Measure(StrEnum):
    """Measures of quality; lower is better."""

    PERPLEXITY = "perplexity"
    OUTPUT_ERROR = "output-error"

    @property
    def words(self) -> str:
        return "perplexity" if self is Measure.PERPLEXITY else "relative error of the outputs"


class Against(StrEnum):
    """Kinds of axis that quality is drawn against, as `--x` spells them."""

    RATIO = "ratio"
    BYTES = "bytes"
    SPEED = "speed"

    @property
    def digits(self) -> int:
        """Decimal places that the table shows."""
        return {Against.RATIO: 3, Against.BYTES: 1, Against.SPEED: 2}[self]

    @property
    def sign(self) -> int:
        """1 if more is better, -1 if less is."""
        return -1 if self is Against.BYTES else 1


class ComparedAxis(Record):
    """The axis that quality is drawn against: ratio, megabytes or speed-up.

    phase: phase of measured speeds, None for predicted end-to-end speeds and for other axes; dense: value of the dense
    model.
    """

    against: Against
    phase: Phase | None
    dense: float


class QualityOfAll(Record):
    """Quality that all builds were judged by. on: the text or the inputs; dense: value of the dense model."""

    measure: Measure
    on: str
    dense: float


class PredictedFor(Record):
    """Card and workload that speeds are predicted for."""

    card: CardRow
    workload: Workload

    def __str__(self) -> str:
        return f"{self.card}, {self.workload}"


class PredictedSpeeds(Record):
    """Predicted speed-ups over the dense model."""

    prefill: Annotated[float, shown("prefill", Unit.TIMES)]
    decode: Annotated[float, shown("decode", Unit.TIMES)]
    end_to_end: Annotated[float, shown("end to end", Unit.TIMES)]


class TimedPlace(Record):
    """Device and library that builds were timed with."""

    device: str
    library: Library
    version: str

    def __str__(self) -> str:
        return f"{self.device}, {self.library.words} {self.version}"


class TimedSize(Record):
    """Size that a phase was timed at. tokens: None for a model without token sequences."""

    batch: int
    tokens: int | None

    def __str__(self) -> str:
        return f"batch {self.batch}" + ("" if self.tokens is None else f", {self.tokens} tokens")


class MeasuredSpeeds(Record):
    """The place and the sizes of measured speeds. place: None if no speed was measured that can be compared."""

    place: TimedPlace | None
    sizes: dict[Phase, TimedSize]


class LeftOutKind(StrEnum):
    """Reasons why speeds are left out of the comparison."""

    NOT_PREDICTED = "not-predicted"  # builds without predictions
    PREDICTED_DIFFERENTLY = "predicted-differently"  # for several cards or workloads
    TIMED_ON_CPU = "timed-on-cpu"
    TIMED_ELSEWHERE = "timed-elsewhere"  # in several places
    TIMED_AT_OTHER_SIZES = "timed-at-other-sizes"


class LeftOut(Record):
    """Speeds that are left out, and why. builds: names of the builds, by card and workload or by place if there are any."""

    kind: LeftOutKind
    builds: tuple[tuple[str, ...], ...]
    predicted_for: tuple[PredictedFor, ...] = ()
    places: tuple[TimedPlace, ...] = ()

    @property
    def predicted(self) -> bool:
        """True for predicted speeds, False for measured speeds."""
        return self.kind in (LeftOutKind.NOT_PREDICTED, LeftOutKind.PREDICTED_DIFFERENTLY)


class BuildFigures(Record):
    """Figures of a build.

    name: short and unique among the builds; permuted, repaired: done to the weights besides pruning, which affects quality
    as much as the method; kinds: share of the covered weights in tiles of each kind that the build has, by the kind's name,
    in the order of the table of kinds; bytes_per_weight: of a packed weight of its type, on average over the covered
    weights; increase: of the perplexity over the dense model's, None for other measures; bytes: of the ONNX file with its
    data; predicted: None without predictions.
    """

    name: Annotated[str, shown("build", Unit.WORDS)]
    path: str
    method: str
    permuted: bool
    repaired: bool
    ratio: Annotated[float, shown("ratio", Unit.RATIO)]
    kinds: dict[str, float]
    bytes_per_weight: Annotated[float, shown("bytes of a weight", Unit.RATIO)]
    quality: float
    increase: Annotated[float | None, shown("against dense", Unit.CHANGE)]
    bytes: Annotated[int, shown("MB", Unit.MEGABYTES)]
    predicted: PredictedSpeeds | None

    @property
    def two_four_alone(self) -> bool:
        """True if all tiles of the build are dense or 2:4."""
        return self.kinds.keys() <= {DENSE_KIND.name, TWO_FOUR.name}


class BuildRow(BuildFigures):
    """A build in the comparison.

    predicted: also None if predictions can't be compared; measured: speed-up by phase; at: value on the axis; beaten_by:
    name of the build that beats it, None for a Pareto point.
    """

    measured: dict[Phase, float]
    at: float
    beaten_by: str | None


class CompareReport(VersionedRecord):
    """Result of `compare`.

    dense_bytes: bytes of the dense model in the form of the builds; dense_beaten_by: as for a build; pareto: names of the
    builds that no other build beats; files: the written files.
    """

    SCHEMA: ClassVar[int] = 3  # 1 had sentences for axes, places and notes; 2 had no kinds of tiles

    model: ModelOrigin
    quality: QualityOfAll
    axis: ComparedAxis
    predicted_for: PredictedFor | None
    measured: MeasuredSpeeds
    builds: tuple[BuildRow, ...]
    dense_bytes: int
    dense_beaten_by: str | None
    pareto: tuple[str, ...]
    left_out: tuple[LeftOut, ...]
    files: tuple[str, ...]
