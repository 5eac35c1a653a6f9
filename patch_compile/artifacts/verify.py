"""verify.json: the answers of `verify` to its questions about a build, as numbers and reasons without sentences."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from masklearn import BesideBaselines, Unbounded
from patch_compile.artifacts.layout import VERIFY
from patch_compile.artifacts.manifest import EvalText
from patch_compile.artifacts.proof import (
    ComparedInputs,
    EmbeddingsDifference,
    Finite,
    OutputsDifference,
    PredictionsDifference,
    TextWindows,
    Tolerance,
)
from patch_compile.artifacts.record import FileRecord, Record, Seconds, Shown, Unit, shown
from patch_compile.artifacts.report import Kind


class ErrorStats(Record):
    """Statistics of |difference|, in the unit of the outputs."""

    max: Annotated[float, shown("max")]
    mean: Annotated[float, shown("mean")]
    median: Annotated[float, shown("median")]
    rms: Annotated[float, shown("rms")]


class LogitErrorStats(ErrorStats):
    """Statistics of |difference| of logits. scale: largest |logit| of the dense model."""

    scale: float


class ComparedRun(Record):
    """One run of two models on one input.

    tokens: tokens of the input; past: tokens in the cache before it, both None for a graph that is run as a whole;
    error: largest |difference| / largest output of all runs, None if a value is not finite; stats: None for values that
    are not finite, and where only the largest error is measured.
    """

    phase: Literal["prefill", "decode", "whole"]
    tokens: int | None = None
    past: int | None = None
    error: Finite
    stats: ErrorStats | None = None

    def __str__(self) -> str:
        if self.phase == "whole":
            return "whole run"
        count = self.past if self.phase == "decode" else self.tokens
        tokens = f"{count} token{'s' * (count != 1)}"
        return f"decode, behind {tokens}" if self.phase == "decode" else f"prefill, {tokens}"


class FirstDifference(Record):
    """The first wrong tensor.

    tensor: its name in the graph; node, op: the node that computes it, and its type; linear: the linear that it belongs
    to, None for other nodes; error: largest |difference| / largest |reference|; tolerance: the error that rounding
    explains at this place.
    """

    tensor: str
    node: str
    op: str
    linear: str | None
    error: Finite
    tolerance: float


class OnnxCheck(Record):
    """Comparison of the hybrid ONNX with the pruned model.

    error: largest |difference| / largest output, over all runs; or what the hybrid ONNX's choice of experts loses in the
    pruned model's scores / the largest score, if that is more; output: the output that has it, None for logits.
    """

    passed: bool
    error: Finite
    tolerance: Tolerance
    output: str | None = None
    runs: tuple[ComparedRun, ...]
    first_difference: FirstDifference | None = None


class PrunedPerplexity(Record):
    """Perplexities of the two checkpoints."""

    dense: Annotated[Unbounded, shown("dense", Unit.PERPLEXITY)]
    pruned: Annotated[Unbounded, shown("pruned", Unit.PERPLEXITY)]

    @property
    def increase(self) -> float:
        return self.pruned / self.dense - 1.0


class PrunedTokens(PredictionsDifference):
    """Effect of pruning on predictions. tokens: number of positions."""

    kind: Literal["tokens"] = "tokens"
    perplexity: PrunedPerplexity
    logits: LogitErrorStats
    tokens: Annotated[int, shown("tokens compared", Unit.COUNT)]
    on: TextWindows


class PrunedOutputs(OutputsDifference):
    """Effect of pruning on the outputs of a model that predicts no next tokens. embeddings: as in `OutputsProof`."""

    kind: Literal["outputs"] = "outputs"
    inputs: ComparedInputs
    embeddings: EmbeddingsDifference | None = None


QualityLoss = Annotated[PrunedTokens | PrunedOutputs, Field(discriminator="kind")]


class NotRun(StrEnum):
    """Reasons why an engine was not run."""

    NO_ENGINE = "no-engine"  # built with the backend onnx
    NO_RUNTIME = "no-runtime"  # patch-compile has no runtime for engines of encoders and of ONNX files
    NOT_HERE = "not-here"  # this machine cannot run it


class EngineNotRun(Record):
    """An engine that was not compared. error: the text of the error that running it raised, for NOT_HERE."""

    ran: Literal[False] = False
    reason: NotRun
    error: str | None = None


class EngineCompared(Record):
    """Comparison of the engine with the hybrid ONNX. engine: its name."""

    ran: Literal[True] = True
    engine: str
    passed: bool
    error: Finite
    tolerance: Tolerance
    runs: tuple[ComparedRun, ...]


EngineCheck = Annotated[EngineCompared | EngineNotRun, Field(discriminator="ran")]


class LinearError(Record):
    """Error of one linear: ‖X(W − W′)ᵀ‖ / ‖XWᵀ‖, X the input of the linear in the dense model.

    share: of the sum of squared errors of all linears, each relative to its own output; overflow: share of the elements of X
    in the pruned model that its static scale cuts off, None without a static scale.
    """

    name: Annotated[str, shown("linear", Unit.WORDS)]
    block: int | None
    kind: str
    error: Annotated[float, shown("error", Unit.SHARE)]
    share: Annotated[float, shown("share", Unit.SHARE)]
    overflow: float | None = None


class BlockError(Record):
    """Relative error of the hidden states after a block."""

    block: int
    error: float


class ErrorAttribution(Record):
    """Places of the error, in the order of the model."""

    linears: tuple[LinearError, ...]
    blocks: tuple[BlockError, ...]


class FigureName(StrEnum):
    """Figures that can have a limit."""

    PPL = "ppl"
    KL = "kl"
    TOP1 = "top1"
    LOGITS = "logits"
    OUTPUT = "output"

    @property
    def shown(self) -> Shown:
        """Returns the label and the unit of the figure."""
        predictions = PredictionsDifference.shown_fields()
        return {
            FigureName.PPL: Shown(self, "perplexity", Unit.PERPLEXITY),
            FigureName.KL: predictions["kl"],
            FigureName.TOP1: predictions["top1_agreement"],
            FigureName.LOGITS: Shown(self, "mean error of a logit", Unit.NUMBER),
            FigureName.OUTPUT: Shown(self, "largest error of an output", Unit.SHARE),
        }[self]


class LimitCheck(Record):
    """A figure and its limit. ask: the limit as it was asked for; at_least: True if more is better."""

    figure: FigureName
    ask: str
    value: Finite
    limit: float
    at_least: bool
    passed: bool


class TaskDifference(Record):
    """Difference of the pruned model's score from the dense model's, with its standard error.

    per_item: True for the mean difference per item (a paired comparison), in `unit`; else the difference of the two
    scores, with the combined error of both.
    """

    value: float
    error: float
    per_item: bool
    unit: Literal["", "nats"] = ""


class TaskRow(Record):
    """Scores of one metric of a task or group, None if not finite. Standard errors are None if unknown.

    filter: the harness's filter of answers, None for none; samples: number of items; difference: None without an error.
    """

    task: Annotated[str, shown("task", Unit.WORDS)]
    metric: str
    filter: str | None
    dense: float | None
    pruned: float | None
    dense_stderr: float | None
    pruned_stderr: float | None
    samples: Annotated[int, shown("samples", Unit.COUNT)]
    difference: TaskDifference | None


class TaskScores(Record):
    """Scores of all tasks.

    harness: name and version of the harness; chat_template: True if the model has a chat template, which is not applied;
    limit: number of items of each task, None for all; cut: tasks that have more items than that.
    """

    harness: str
    rows: tuple[TaskRow, ...]
    chat_template: bool
    limit: int | None = None
    cut: tuple[str, ...] = ()


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
