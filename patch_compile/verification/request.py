"""The settings of `patch-compile verify`: a frozen model of its flags that is validated once."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, ConfigDict, Field, PlainSerializer

from masklearn import Baseline, parse_baselines
from masklearn.base.settings import Listed, Settings
from patch_compile.artifacts.verify import Question
from patch_compile.errors import UsageError
from patch_compile.verification.fail_on import Limit, parse_limit

__all__ = ["ErrorStat", "VerifyRequest"]


class ErrorStat(StrEnum):
    """Statistics of errors that can be compared with the tolerance, as Polygraphy names them."""

    ELEMWISE = "elemwise"
    MAX = "max"
    MEAN = "mean"
    MEDIAN = "median"
    QUANTILE = "quantile"


def _baselines(value: Any) -> Any:
    return parse_baselines(value) if isinstance(value, str) else value


def _limits(value: Any) -> Any:
    return tuple(parse_limit(one) if isinstance(one, str) else one for one in value)


def _spelled(limits: tuple[Limit, ...]) -> list[str]:
    return [str(limit) for limit in limits]


class VerifyRequest(Settings):
    """Settings of `verify`. Evaluation settings that are None are taken from the build."""

    model_config = ConfigDict(arbitrary_types_allowed=True)

    only: Annotated[tuple[Question, ...], Listed] = tuple(Question)
    eval_text: str | None = None
    eval_windows: int | None = Field(None, ge=1)
    eval_length: int | None = Field(None, ge=2)
    lengths: Annotated[tuple[Annotated[int, Field(ge=1)], ...], Listed] = (1, 17, 96)
    atol: float | None = Field(None, ge=0.0, allow_inf_nan=False)
    rtol: float | None = Field(None, ge=0.0, allow_inf_nan=False)
    check_error_stat: ErrorStat = ErrorStat.MAX
    fail_on: Annotated[tuple[Limit, ...], BeforeValidator(_limits), PlainSerializer(_spelled)] = ()
    sensitivity: bool = False
    sensitivity_tokens: int = Field(512, ge=2)
    baselines: Annotated[tuple[Baseline, ...], BeforeValidator(_baselines)] = ()
    tasks: Annotated[tuple[str, ...], Listed] = ()
    task_backend: Literal["hf", "onnx"] = "hf"
    task_limit: int | None = Field(None, ge=1)
    task_folder: Path | None = None
    prompt: tuple[str, ...] = ()
    new_tokens: int = Field(40, ge=1)
    device: str | None = None
    trust: bool = False

    @classmethod
    def parse(cls, settings: dict[str, Any]) -> Self:
        """Validate settings from arguments or flags. Raises UsageError, also for a limit on a figure that is not
        measured."""
        request = super().parse(settings)
        request._check_limits()
        return request

    def asks(self, question: Question) -> bool:
        """Returns True if a question is to be answered."""
        return question in self.only

    def _check_limits(self) -> None:
        """Refuse a limit on a figure that is not measured, because it would never fail."""
        for limit in self.fail_on:
            if limit.figure.question not in self.only:
                raise UsageError(
                    f"--fail-on {limit} asks for what is left out",
                    f"It is a figure of the question {str(limit.figure.question)!r}, and --only is {','.join(self.only)}.",
                    "Ask that question too, or drop the limit.",
                )
