"""Comparisons of a build's models, as report.json and verify.json hold them: numbers and their origin, no sentences."""

from __future__ import annotations

import math
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from masklearn import Unbounded
from masklearn.base.printable import counted
from patch_compile.artifacts.manifest import EvalText
from patch_compile.artifacts.record import Record, Unit, shown


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


Finite = Annotated[float | None, BeforeValidator(_finite)]
"""A number, None if it is not finite: JSON has neither NaN nor infinity."""
PROMPT = "The capital of France is"
"""The prompt that the dense and the hybrid model each continue in a report."""


class ToleranceOrigin(StrEnum):
    """Origins of a tolerance."""

    ROUNDINGS = "roundings"  # derived from the number of roundings in the graph
    ROUNDED_LINEARS = "rounded-linears"  # measured: rounding X and Y of the same linears in the pruned model
    ROUNDED_INPUTS = "rounded-inputs"  # measured: twice that effect, where linears also round X to int8
    SIXTEEN_BITS = "sixteen-bits"  # measured: twice the effect of computing in 16 bits instead of fp32
    ASKED = "asked"


class AskedTolerance(Record):
    """Tolerance that the user asked for, as Polygraphy takes it: in units of the outputs."""

    atol: float
    rtol: float
    statistic: str


class Tolerance(Record):
    """Allowed difference of outputs, as a share of the largest value, or with `by_norm` ‖difference‖₂ / ‖value‖₂.

    dtype, roundings: type and number of roundings of the graph, None for ASKED; layers: number of layers that have these
    roundings, None if they were counted in the graph; rounding_models: number of compared models that round, each by this
    much.
    """

    share: Annotated[float, shown("allowed")]
    origin: ToleranceOrigin
    dtype: Annotated[str, Field(pattern="^(float16|bfloat16)$")] | None = None
    roundings: int | None = None
    layers: int | None = None
    rounding_models: Literal[1, 2] = 1
    by_norm: bool = False
    asked: AskedTolerance | None = None


class TextWindows(Record):
    """Windows of text to evaluate on. runner: "checkpoints" if both checkpoints ran on them block by block in fp32, None for
    an encoder, whose models run on them in several ways."""

    kind: Literal["text"] = "text"
    name: str
    windows: int
    length: int
    dtype: str
    runner: Literal["checkpoints"] | None = None

    def __str__(self) -> str:
        windows = f"{counted(self.windows, 'window')} × {self.length} tokens"
        words = f"{self.name}, {windows}, {'fp32' if self.dtype == 'float32' else self.dtype}"
        return words if self.runner is None else f"{words}, both checkpoints"


class InputsFile(Record):
    """Inputs of a graph from a file."""

    kind: Literal["file"] = "file"
    name: str
    runs: int

    def __str__(self) -> str:
        return f"{self.name} ({counted(self.runs, 'run')})"


class RandomInputs(Record):
    """Random inputs of a graph. shapes: shape by name of the input."""

    kind: Literal["random"] = "random"
    runs: int
    seed: int
    shapes: dict[str, tuple[int, ...]]

    def __str__(self) -> str:
        shapes = [f"{name} {'×'.join(map(str, shape)) or 'scalar'}" for name, shape in self.shapes.items()]
        about = f"{counted(self.runs, 'run')}, seed {self.seed}; {', '.join(shapes)}"
        return f"random inputs ({about}; floats normal, ids of the whole vocabulary)"


class ComparedInputs(Record):
    """Inputs on which outputs were compared. compared: number of the runs in `given` that were compared."""

    given: Annotated[TextWindows | InputsFile | RandomInputs, Field(discriminator="kind")]
    compared: int

    @property
    def random(self) -> bool:
        return isinstance(self.given, RandomInputs)

    def __str__(self) -> str:
        return f"{counted(self.compared, 'run')} of {self.given}"


class WindowAgreement(Record):
    """Perplexity of the first window of the text: of the hybrid ONNX file, run by ONNX Runtime, and of the pruned
    checkpoint, run by transformers with the same weights."""

    tokens: int
    hybrid: Unbounded
    pruned: Unbounded


class Agreement(Record):
    """Agreement of the hybrid model with the pruned model.

    error: largest |difference| of an output / its largest value, over all inputs; or what the hybrid model's choice of
    experts loses in the pruned model's scores / the largest score, if that is more; ‖difference‖₂ / ‖value‖₂ if the
    tolerance is `by_norm`; output: the output that has it, None for logits; dense_error: error of the dense model against
    the pruned model, None if only outputs are compared; feeds: number of inputs; window: the input that is a whole window of
    text, None if only outputs are compared.
    """

    error: Finite
    tolerance: Tolerance
    output: str | None = None
    dense_error: float | None = None
    feeds: int
    window: WindowAgreement | None = None


class OutputDifference(Record):
    """Difference of a model from a reference in one output, over all runs.

    largest: largest |difference| / largest value; relative: ‖difference‖₂ / ‖value‖₂. Both are None if the shapes differ,
    if an element is finite in only one of the models, or if no element of a run is finite, which compares nothing. For
    outputs that are not floating-point numbers both are the share of unequal elements.
    """

    output: str
    largest: Finite
    relative: Finite
    floating: bool

    def error(self, *, by_norm: bool) -> float | None:
        return self.relative if by_norm else self.largest


class OutputsDifference(Record):
    """Differences of all outputs; every model has at least one output."""

    outputs: Annotated[tuple[OutputDifference, ...], Field(min_length=1)]

    @property
    def worst(self) -> OutputDifference:
        """Returns the output that differs most, a floating-point output if there is any."""
        outputs = [output for output in self.outputs if output.floating] or self.outputs
        return max(outputs, key=lambda output: math.inf if output.relative is None else output.relative)

    @property
    def relative(self) -> float | None:
        """Returns the largest relative difference, None if any difference is not finite."""
        errors = [output.relative for output in self.outputs]
        return None if None in errors else max(error for error in errors if error is not None)


class EmbeddingsDifference(Record):
    """Cosines of embeddings of texts: the hybrid model's and the dense model's of the same text, on average and in the worst
    text; different: of different texts in the dense model, on average.

    pooling: how an embedding is made of the last hidden states of a text: their mean, or the first.
    """

    pooling: Literal["mean", "first"]
    texts: int
    mean: Annotated[float, shown("cosine to dense, mean")]
    worst: Annotated[float, shown("cosine to dense, worst")]
    different: Annotated[float, shown("cosine between texts")]


class LastWords(Record):
    """Shares of short texts whose last word each model finds. texts: number of texts; error: standard error of the
    difference of the two shares."""

    texts: int
    dense: float
    pruned: float
    error: float


class PredictionsDifference(Record):
    """Difference of the pruned checkpoint's predictions from the dense checkpoint's: KL in nats per token, and share of
    positions with the same most likely token."""

    kl: Annotated[float, shown("KL to dense", Unit.NATS)]
    top1_agreement: Annotated[float, shown("same next token as dense", Unit.SHARE)]


class BuildPerplexity(Record):
    """Perplexities of the dense and of the pruned checkpoint. `Agreement` proves that the ONNX file computes the same as the
    pruned checkpoint."""

    dense: Annotated[Unbounded, Field(ge=1.0), shown("dense", Unit.PERPLEXITY)]
    pruned: Annotated[Unbounded, Field(ge=1.0), shown("pruned", Unit.PERPLEXITY)]
    on: TextWindows


class Sentence(Record):
    """A prompt, and the sentence that each model continues it by."""

    prompt: Annotated[str, shown("prompt", Unit.WORDS)]
    dense: Annotated[str, shown("dense", Unit.QUOTE)]
    hybrid: Annotated[str, shown("pruned", Unit.QUOTE)]


class ProofText(Record):
    """The text that a proof was made on."""

    eval: EvalText


class TokensProof(Record):
    """Proof of the build of a decoder. last_words: None if the dense model finds none."""

    text: ProofText
    perplexity: BuildPerplexity
    agreement: Agreement
    difference: PredictionsDifference
    generated: Sentence
    last_words: LastWords | None = None


class OutputsProof(Record):
    """Proof of the build of an encoder, or of an ONNX file, which has no text.

    embeddings: None for an ONNX file, and for a single text.
    """

    text: ProofText | None
    inputs: ComparedInputs
    agreement: Agreement
    difference: OutputsDifference
    embeddings: EmbeddingsDifference | None = None
