"""Results of `learn`, `compile`, `import-mask`, `export`, `debug reduce` and `compare`, as `--json` prints them."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, ClassVar, Self

from masklearn import BesideBaselines
from masklearn.masks.kinds.table import DENSE
from masklearn.masks.linear_mask import LinearMask
from masklearn.masks.record import TileSummary
from patch_compile.artifacts.manifest import EvalText, ModelOrigin
from patch_compile.artifacts.plan import Asked, Lowering, PlanSummary, Skipped, TileCount
from patch_compile.artifacts.prediction import CardRow, Workload
from patch_compile.artifacts.record import Record, Seconds, Unit, VersionedRecord, shown
from patch_compile.artifacts.report import Kind, MaskMetadata, OnnxFile, PrunedModel


class LearnedBaselines(BesideBaselines):
    """Learned masks and their baselines. text: the held-out text that all were evaluated on."""

    text: EvalText


class MaskedLinear(Record):
    """Mask of one linear `[N, K]`. How it is compiled is not known before a build."""

    name: str
    shape: tuple[int, int]
    zeroed: int
    tiles: TileCount

    @classmethod
    def of(cls, name: str, mask: LinearMask) -> Self:
        count = TileCount(sparse=int((mask.kinds != DENSE.code).sum()), all=mask.kinds.size)
        return cls(name=name, shape=mask.shape, zeroed=mask.zeroed, tiles=count)


class LearnedAnswer(VersionedRecord):
    """Result of `learn`.

    path: OUT; bytes_per_weight: average of a covered weight in packed slabs, None unless bytes were asked for; baselines:
    None without baselines and without text to evaluate on; seconds: duration of each stage.
    """

    SCHEMA: ClassVar[int] = 4

    path: str
    kind: Kind
    model: ModelOrigin
    method: str
    asked: Asked
    ratio: float
    linears: tuple[MaskedLinear, ...]
    skipped: tuple[Skipped, ...]
    where_sparse: TileSummary
    learned: MaskMetadata
    bytes_per_weight: float | None = None
    baselines: LearnedBaselines | None = None
    notes: tuple[str, ...]
    seconds: dict[str, Seconds]


class CompiledAnswer(VersionedRecord, PrunedModel):
    """Result of `compile`. path: OUT."""

    SCHEMA: ClassVar[int] = 2

    path: str
    plan: PlanSummary
    onnx: OnnxFile
    notes: tuple[str, ...]
    seconds: dict[str, Seconds]


class ImportedAnswer(VersionedRecord):
    """Result of `import-mask`.

    path: the file of masks; ratio: zeroed weights / weights by the pattern; zeros: the same by the published masks.
    """

    SCHEMA: ClassVar[int] = 2

    path: Annotated[str, shown("masks", Unit.WORDS)]
    linears: tuple[MaskedLinear, ...]
    skipped: tuple[Skipped, ...]
    ratio: Annotated[float, shown("ratio", Unit.RATIO)]
    zeros: Annotated[float, shown("zeros", Unit.RATIO)]
    format: Annotated[str, shown("format", Unit.WORDS)]
    notes: tuple[str, ...]


class ExportedAnswer(VersionedRecord):
    """Result of `export`.

    path: the folder that was written; linears: number of linears by weight type, for `edgellm` by lowering; bytes: size of
    the folder's weights, for `edgellm` of all its files; model_bytes: size of the weights of the pruned checkpoint; seconds:
    duration of each stage.
    """

    SCHEMA: ClassVar[int] = 1

    path: str
    format: str
    linears: dict[str, int]
    bytes: int
    model_bytes: int
    notes: tuple[str, ...]
    seconds: dict[str, Seconds]


class ReducedLinear(VersionedRecord):
    """Result of `debug reduce`.

    path: the folder that was written; linears: all linears of its node; inputs, outputs: shapes by the tensor's name;
    error: largest difference of hybrid and dense outputs over the largest dense output, None if it is not finite; tolerance:
    part of the error that rounding explains; command: runs the hybrid file.
    """

    SCHEMA: ClassVar[int] = 1

    path: str
    linear: str
    lowering: Lowering
    linears: tuple[str, ...]
    inputs: dict[str, tuple[int, ...]]
    outputs: dict[str, tuple[int, ...]]
    error: float | None
    tolerance: float
    passed: bool
    command: str


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
