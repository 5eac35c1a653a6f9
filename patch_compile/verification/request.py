"""The settings of `patch-compile verify`, and limits on its figures, such as `ppl:+5%` or `top1:90%`."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Self

from pydantic import BeforeValidator, ConfigDict, PlainSerializer

from masklearn import Baseline, parse_baselines
from masklearn.base.option import listed
from masklearn.base.settings import Settings
from patch_compile.artifacts.verify import (
    FigureName,
    LimitCheck,
    PrunedOutputs,
    PrunedTokens,
    QualityLoss,
    Question,
)
from patch_compile.errors import PatchCompileError, UsageError
from patch_compile.options import VerifyOptions
from patch_compile.report.loss import GIVE_DENSE, NO_DENSE


@dataclass(frozen=True)
class Figure:
    """A figure that can have a limit.

    read: returns the figure from the answer to `pruned`; base: returns the value that `+x%` is relative to, None if
    `+x%` makes no sense; at_least: True if more is better; decoders: True for models that predict next tokens, False for
    other models.
    """

    name: FigureName
    read: Callable[[QualityLoss], float | None]
    base: Callable[[QualityLoss], float] | None = None
    at_least: bool = False
    decoders: bool = True


def _of_tokens(read: Callable[[PrunedTokens], float]) -> Callable[[QualityLoss], float]:
    def checked(answer: QualityLoss) -> float:
        assert isinstance(answer, PrunedTokens)  # `check_figures` has refused other models
        return read(answer)

    return checked


def _worst_output(answer: QualityLoss) -> float | None:
    assert isinstance(answer, PrunedOutputs)  # `check_figures` has refused decoders
    return answer.relative


FIGURES = {
    figure.name.value: figure
    for figure in (
        Figure(
            FigureName.PPL,
            _of_tokens(lambda one: one.perplexity.pruned),
            _of_tokens(lambda one: one.perplexity.dense),
        ),
        Figure(FigureName.KL, _of_tokens(lambda one: one.kl)),
        Figure(FigureName.TOP1, _of_tokens(lambda one: one.top1_agreement), at_least=True),
        Figure(FigureName.LOGITS, _of_tokens(lambda one: one.logits.mean)),
        Figure(FigureName.OUTPUT, _worst_output, decoders=False),
    )
}
_SPEC = re.compile(r"(?P<name>[a-z0-9]+):(?P<plus>\+?)(?P<number>\d+(?:\.\d+)?(?:e-?\d+)?)(?P<percent>%?)")


@dataclass(frozen=True)
class Limit:
    """A limit on a figure. relative: True if `value` is a share of the dense model's figure that is added to it."""

    figure: Figure
    value: float
    relative: bool
    spelled: str

    def __str__(self) -> str:
        return self.spelled

    def check(self, pruned: QualityLoss) -> LimitCheck:
        """Compare the figure with the limit."""
        value, allowed = self.figure.read(pruned), self.value
        if self.relative:
            assert self.figure.base is not None
            allowed = self.figure.base(pruned) * (1.0 + self.value)
        return LimitCheck(
            figure=self.figure.name,
            ask=self.spelled,
            value=value,
            limit=allowed,
            at_least=self.figure.at_least,
            passed=value is not None and (value >= allowed if self.figure.at_least else value <= allowed),
        )


def parse_limit(spelled: str) -> Limit:
    """Parse `NAME:LIMIT`, such as `ppl:+5%` (over the dense model's), `ppl:12.5`, `kl:0.1` or `top1:90%`.

    Raises ValueError for anything else.
    """
    match = _SPEC.fullmatch(spelled.strip())
    if match is None or match["name"] not in FIGURES:
        raise ValueError(
            f"{spelled!r} is not NAME:LIMIT such as ppl:+5%, ppl:12.5 or top1:90%, with a name of {', '.join(FIGURES)}"
        )
    figure, percent = FIGURES[match["name"]], bool(match["percent"])
    if match["plus"] and (figure.base is None or not percent):
        raise ValueError(f"{spelled!r}: only ppl takes +x%, which is over the dense model's")
    if percent and not match["plus"] and figure.name is FigureName.PPL:
        raise ValueError(f"{spelled!r}: per cent of what? ppl:+{match['number']}% is over the dense model's")
    value = float(match["number"]) * (0.01 if percent else 1.0)
    return Limit(figure, value, bool(match["plus"]), spelled.strip())


def check_figures(limits: tuple[Limit, ...], *, decoder: bool, dense_given: bool = True) -> None:
    """Raise PatchCompileError for a limit on a figure that this kind of model does not have, or that is against a dense
    model that was not given: such a limit would never fail."""
    for limit in limits:
        if not dense_given and (limit.relative or limit.figure.name is not FigureName.PPL):
            raise PatchCompileError(f"--fail-on {limit} can't be checked", NO_DENSE, GIVE_DENSE)
        if limit.figure.decoders != decoder:
            raise PatchCompileError(
                f"--fail-on {limit} can't be checked",
                f"This model has no {limit.figure.name.shown.title}.",
                "Decoders have ppl, kl, top1 and logits; encoders and ONNX models have output.",
            )


def _baselines(value: Any) -> Any:
    return parse_baselines(value) if isinstance(value, str) else value


def _limits(value: Any) -> Any:
    return tuple(parse_limit(one) if isinstance(one, str) else one for one in value)


def _spelled(limits: tuple[Limit, ...]) -> list[str]:
    return [str(limit) for limit in limits]


class VerifyRequest(Settings, VerifyOptions):
    """Settings of `verify`, checked together. Three of the fields of `VerifyOptions` have narrower types here."""

    model_config = ConfigDict(arbitrary_types_allowed=True)

    only: Annotated[tuple[Question, ...], BeforeValidator(listed)]
    fail_on: Annotated[tuple[Limit, ...], BeforeValidator(_limits), PlainSerializer(_spelled)]  # type: ignore[assignment]
    baselines: Annotated[tuple[Baseline, ...], BeforeValidator(_baselines)]

    @classmethod
    def parse(cls, settings: dict[str, Any]) -> Self:
        """Validate settings from arguments or flags. Raises UsageError, also for a limit on a figure that is not
        measured."""
        request = super().parse(settings)
        for limit in request.fail_on:
            if not request.asks(Question.PRUNED):  # such a limit would never fail
                raise UsageError(
                    f"--fail-on {limit} needs a question that is left out",
                    f"It is a figure of the question {str(Question.PRUNED)!r}, and --only is {','.join(request.only)}.",
                    "Ask that question too, or drop the limit.",
                )
        return request

    def asks(self, question: Question) -> bool:
        return question in self.only
