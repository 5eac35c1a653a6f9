"""Results of `learn`, `compile` and `import-mask`, as `--json` prints them."""

from __future__ import annotations

from typing import ClassVar

from masklearn.quality.record import BesideBaselines
from patch_compile.out.manifest import EvalText
from patch_compile.out.plan import LinearRow, PlanSummary, Skipped
from patch_compile.out.record import VersionedRecord
from patch_compile.out.report import MaskedModel, OnnxFile, PrunedModel

__all__ = ["CompiledAnswer", "ImportedAnswer", "LearnedAnswer", "LearnedBaselines"]


class LearnedBaselines(BesideBaselines):
    """Learned masks beside their baselines. text: the held-out text that all were evaluated on."""

    text: EvalText


class LearnedAnswer(VersionedRecord, MaskedModel):
    """Result of `learn`. path: OUT; baselines: None if none were asked for; seconds: duration of each stage."""

    SCHEMA: ClassVar[int] = 2  # 1 had sentences on the baselines

    path: str
    baselines: LearnedBaselines | None = None
    notes: tuple[str, ...]
    seconds: dict[str, float]


class CompiledAnswer(VersionedRecord, PrunedModel):
    """Result of `compile`. path: OUT."""

    SCHEMA: ClassVar[int] = 1

    path: str
    plan: PlanSummary
    onnx: OnnxFile
    notes: tuple[str, ...]
    seconds: dict[str, float]


class ImportedAnswer(VersionedRecord):
    """Result of `import-mask`.

    path: the file of masks; ratio: zeroed weights / weights by the pattern; zeros: the same by the published masks.
    """

    SCHEMA: ClassVar[int] = 1

    path: str
    linears: tuple[LinearRow, ...]
    skipped: tuple[Skipped, ...]
    ratio: float
    zeros: float
    format: str
    notes: tuple[str, ...]
