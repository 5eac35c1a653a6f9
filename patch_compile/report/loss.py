"""Whether a loss of quality is small, for people: the colour of its light, the limits of the colour, and what loses less."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from masklearn import LearnOptions, Repair, method_names, usual_windows
from masklearn.quant.table import weight_type
from patch_compile.artifacts.proof import EmbeddingsDifference
from patch_compile.artifacts.report import DecoderReport, Kind, MaskedModel, Report
from patch_compile.artifacts.verify import PrunedOutputs, PrunedTokens
from patch_compile.report.number_format import joined, percent

Colour = Literal["green", "yellow", "red", "grey"]
_POOLED = {"mean": "the mean of their last hidden states", "first": "their first last hidden state"}
NO_DENSE = (
    "The dense model was not given: the model has zeros wherever the masks zero, so it is a pruned model, and pruning it "
    "changed nothing."
)
GIVE_DENSE = (
    "Import the masks with --model DENSE_DIR, and measure the loss with "
    "`patch-compile build DENSE_DIR --mask FILE --pruned PRUNED_DIR`."
)
_STEP = 0.05  # ratios that are advised are multiples of it


@dataclass(frozen=True)
class Loss:
    """A loss, and its limits without a limit of the user's.

    value: infinite if it is not finite; green, yellow: losses up to which the light has this colour; power: the loss grows
    with this power of the ratio, as in docs/explanation/quality.md; spell: writes a limit as the light's figure; better,
    worse: words for both sides of a limit.
    """

    value: float
    green: float
    yellow: float
    power: float
    spell: Callable[[float], str] = percent
    better: str = "up to"
    worse: str = "above"

    @property
    def colour(self) -> Colour:
        if not self.value <= self.yellow:
            return "red"
        return "green" if self.value <= self.green else "yellow"


def loss_of(answer: PrunedTokens | PrunedOutputs | Report) -> Loss | None:
    """Returns the loss that `verify` or the build measured, None on random inputs, which say little.

    It is the increase of perplexity over the dense model; the mean distance of an embedding from the dense model's, as a
    share of the distance of different texts; or the relative error of the output that moves most.
    """
    if isinstance(answer, PrunedTokens | DecoderReport):
        return Loss(answer.perplexity.pruned / answer.perplexity.dense - 1, 0.05, 0.20, power=2.0)
    if answer.inputs.random:
        return None
    if embeddings := answer.embeddings:
        apart = 1.0 - embeddings.different
        value = (1.0 - embeddings.mean) / apart if apart > 0.0 else math.inf

        def cosine(limit: float) -> str:
            return f"{1.0 - limit * apart:.3f}"

        return Loss(value, 0.05, 0.20, power=2.0, spell=cosine, better="from", worse="below")
    worst = (answer if isinstance(answer, PrunedOutputs) else answer.difference).worst.relative
    return Loss(math.inf if worst is None else worst, 0.02, 0.10, power=1.0)


def embedding_words(embeddings: EmbeddingsDifference) -> str:
    return f"{embeddings.texts} texts, {_POOLED[embeddings.pooling]}"


def limits_words(loss: Loss, model: MaskedModel) -> str:
    """Returns a sentence with the limits of the colour, and what to try."""
    green, yellow = loss.spell(loss.green), loss.spell(loss.yellow)
    if loss.colour == "green":
        return f"Green {loss.better} {green}."
    span = f"Yellow from {green} to {yellow}" if loss.colour == "yellow" else f"Red {loss.worse} {yellow}"
    return f"{span}: {_advice(loss, model)}.{_of_rounding(model)}"


def _advice(loss: Loss, model: MaskedModel) -> str:
    """Returns what loses less: the settings in which the build is cheaper than the usual, then less pruning."""
    usual, learned = LearnOptions(), model.learned
    steps = []
    if model.method in method_names(trained=False) and model.method != usual.method:
        steps.append(f"--method {usual.method}")
    repaired = learned.repair is not None and Repair(learned.repair.method) is not Repair.NONE
    if not repaired and model.kind is not Kind.ONNX:
        steps.append(f"--repair {Repair.DISTILL}")
    if text := learned.text:
        enough = usual_windows(max(row.shape[1] for row in model.linears), text.length)
        if text.windows < enough:
            steps.append(f"--windows {enough} instead of {text.windows}")
    if not model.asked.ratio and model.ratio == 0.0:
        return f"try {joined(steps)}" if steps else "no tile is pruned"
    ratio = _enough(loss, model)
    if ratio is None and not steps:
        return "prune less"
    if ratio == 0.0 and not steps:
        return "leave the linears dense that matter most (--exclude)"
    return f"try {joined([*steps, *([f'--ratio {ratio:g}'] if ratio else [])])}"


def _enough(loss: Loss, model: MaskedModel) -> float | None:
    """Returns the ratio, 0 if it is too small to ask for, at which the loss would have the next better colour.

    None if the user gave no ratio, or the loss is infinite.
    """
    asked = model.asked.ratio
    if not isinstance(asked, float) or math.isinf(loss.value):
        return None
    limit = loss.yellow if loss.colour == "red" else loss.green
    enough = asked * (limit / loss.value) ** (1 / loss.power)
    steps = max(0, math.floor(min(enough, asked - _STEP / 2) / _STEP))
    return float(round(steps * _STEP, 2))


def _of_rounding(model: MaskedModel) -> str:
    """Returns a sentence on how to learn what the types of the weights lose; empty for weights of 16 bits."""
    types = sorted({row.weights for row in model.linears if weight_type(row.weights).quantised})
    if not types:
        return ""
    return f" `verify --baselines dense-rounded` measures what {joined(types)} loses without pruning."
