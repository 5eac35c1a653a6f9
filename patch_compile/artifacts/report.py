"""report.json, and the sections that it shares with the results of `learn` and `compile`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypeAlias

from pydantic import BeforeValidator, Field, PlainSerializer, TypeAdapter

from masklearn.masks.record import MaskRecord, TileSummary
from patch_compile.artifacts.engine import BuiltEngine
from patch_compile.artifacts.layout import REPORT
from patch_compile.artifacts.manifest import ModelOrigin
from patch_compile.artifacts.plan import Asked, LinearRow, PlanSummary, Skipped
from patch_compile.artifacts.proof import OutputsProof, TokensProof
from patch_compile.artifacts.record import FileRecord, Record, Seconds


class Kind(StrEnum):
    """Kinds of model that builds start from. Decoders are compared by next tokens, the others by their outputs."""

    DECODER = "decoder"
    ENCODER = "encoder"
    ONNX = "onnx"


def _mask_record(found: Any) -> Any:
    return MaskRecord.of_metadata(found) if isinstance(found, dict) else found


MaskMetadata = Annotated[
    MaskRecord,
    BeforeValidator(_mask_record),
    PlainSerializer(MaskRecord.as_metadata, return_type=dict[str, Any]),
]
"""The record of a mask file, written as the file's metadata has it."""


class PrunedModel(Record):
    """A pruned model.

    ratio: zeroed weights / weights of the covered linears; linears: these, as they are compiled, or as a compiler without a
    card would do it.
    """

    kind: Kind
    model: ModelOrigin
    method: str
    asked: Asked
    ratio: float
    linears: tuple[LinearRow, ...]
    skipped: tuple[Skipped, ...]


class MaskedModel(PrunedModel):
    """A pruned model with the places of its pruned tiles, and the record of how they were learned."""

    where_sparse: TileSummary
    learned: MaskMetadata


class OnnxFile(Record):
    """An ONNX file. bytes: of the file and its data file."""

    path: str
    bytes: int


class BuildReport(FileRecord, MaskedModel):
    """Sections of every report.

    path: path of the report; dense_given: False if the model has zeros wherever the masks zero, so that it is a pruned model
    and its figures are not of a dense model; engine: None for the backend onnx; seconds: of each stage.
    """

    SCHEMA: ClassVar[int] = 5
    WHAT: ClassVar[str] = "a report"
    PLACE: ClassVar[str] = REPORT

    path: str
    dense_given: bool = True
    plan: PlanSummary
    onnx: OnnxFile
    engine: BuiltEngine | None
    notes: tuple[str, ...]
    seconds: dict[str, Seconds]


class DecoderReport(BuildReport, TokensProof):
    """report.json of a decoder, which is compared by next tokens."""

    kind: Literal[Kind.DECODER]


class OutputsReport(BuildReport, OutputsProof):
    """report.json of an encoder or of an ONNX file, which are compared by their outputs."""

    kind: Literal[Kind.ENCODER, Kind.ONNX]


Report: TypeAlias = DecoderReport | OutputsReport


def read_report(out: Path) -> Report | None:
    """Returns the report of OUT, or None if there is none. Raises PatchCompileError for another version or content."""
    path = out / REPORT
    kinds: TypeAdapter[Report] = TypeAdapter(Annotated[Report, Field(discriminator="kind")])
    return BuildReport.checked(path, kinds) if path.is_file() else None
