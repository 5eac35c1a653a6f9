"""The result of `compare` for builds of one model, as `--json` prints it."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, ClassVar

from patch_compile.artifacts.manifest import ModelOrigin
from patch_compile.artifacts.prediction import CardRow, Workload
from patch_compile.artifacts.record import Record, Unit, VersionedRecord, shown


class Measure(StrEnum):
    """Measures of quality; lower is better."""

    PERPLEXITY = "perplexity"
    OUTPUT_ERROR = "output-error"

    @property
    def words(self) -> str:
        return "perplexity" if self is Measure.PERPLEXITY else "relative error of the outputs"


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


class BuildRow(Record):
    """A build in the comparison.

    name: short and unique among the builds; permuted, repaired: done to the weights besides pruning, which affects quality
    as much as the method; increase: of the perplexity over the dense model's, None for other measures; bytes: of the ONNX
    file with its data; predicted: None without predictions that all builds have in common.
    """

    name: Annotated[str, shown("build", Unit.WORDS)]
    path: str
    method: str
    permuted: bool
    repaired: bool
    ratio: Annotated[float, shown("ratio", Unit.RATIO)]
    quality: float
    increase: Annotated[float | None, shown("against dense", Unit.CHANGE)]
    bytes: Annotated[int, shown("MB", Unit.MEGABYTES)]
    predicted: PredictedSpeeds | None


class CompareReport(VersionedRecord):
    """Result of `compare`.

    predicted_for: None if the builds have no card and workload in common; dense_bytes: bytes of the dense model in the form
    of the builds.
    """

    SCHEMA: ClassVar[int] = 4

    model: ModelOrigin
    quality: QualityOfAll
    predicted_for: PredictedFor | None
    builds: tuple[BuildRow, ...]
    dense_bytes: int
