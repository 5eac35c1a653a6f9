"""verify.json: the answers of `verify` about a build."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import ClassVar, Self

from pydantic import model_validator

from masklearn import BesideBaselines
from patch_compile.artifacts.layout import VERIFY
from patch_compile.artifacts.manifest import EvalText
from patch_compile.artifacts.record import FileRecord, Seconds
from patch_compile.artifacts.report import Kind
from patch_compile.artifacts.verify_schema import (
    EngineCheck,
    EngineCompared,
    ErrorAttribution,
    LimitCheck,
    OnnxCheck,
    QualityLoss,
    TaskScores,
)


class Question(StrEnum):
    """Questions that a verification can answer independently."""

    COMPILED = "compiled"
    PRUNED = "pruned"
    BUILT = "built"
    WHERE = "where"


class Outcome(StrEnum):
    """Outcomes of a verification."""

    PASSED = "passed"  # every question that was asked has an answer, and no check failed
    FAILED = "failed"
    NOT_CHECKED = "not-checked"  # no check failed, and a question that was asked has no answer

    @property
    def words(self) -> str:
        """Returns the verdict in capitals."""
        return self.value.replace("-", " ").upper()


class VerifiedText(EvalText):
    """The text that was read. The other fields are None where no windows of tokens were compared.

    sha256: hash of the tokens.
    """

    sha256: str | None = None
    windows: int | None = None
    length: int | None = None
    tokens: int | None = None

    @model_validator(mode="after")
    def _windows_have_a_length(self) -> Self:
        if (self.windows is None) != (self.length is None):
            raise ValueError("It has windows without their length, or a length without windows")
        return self


class VerifyReport(FileRecord):
    """verify.json. Answers to questions that were not asked, or that the model cannot answer, are None.

    asked: the questions that the user named, or all that the build has an answer to; dense_given: see `BuildReport`.
    """

    SCHEMA: ClassVar[int] = 4
    WHAT: ClassVar[str] = "a verification"
    PLACE: ClassVar[str] = VERIFY

    date: str
    versions: dict[str, str]
    kind: Kind
    dense_given: bool = True
    asked: tuple[Question, ...]
    outcome: Outcome
    text: VerifiedText | None = None
    compiled: OnnxCheck | None = None
    pruned: QualityLoss | None = None
    built: EngineCheck | None = None
    where: ErrorAttribution | None = None
    baselines: BesideBaselines | None = None
    tasks: TaskScores | None = None
    checks: tuple[LimitCheck, ...] = ()
    notes: tuple[str, ...] = ()
    seconds: dict[str, Seconds]

    @property
    def unanswered(self) -> tuple[Question, ...]:
        """Returns the questions that were asked and have no answer."""
        answered = {
            Question.COMPILED: self.compiled,
            Question.PRUNED: self.pruned,
            Question.BUILT: self.built if isinstance(self.built, EngineCompared) else None,
            Question.WHERE: self.where,
        }
        return tuple(question for question in self.asked if answered[question] is None)

    @property
    def passed(self) -> bool:
        """Returns True if every question that was asked has an answer, and no check failed."""
        return self.outcome is Outcome.PASSED

    @classmethod
    def made_by(cls, out: Path) -> str:
        return f"patch-compile verify {out}"
