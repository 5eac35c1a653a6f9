"""`--fail-on`: limits on figures of the verification, such as `ppl:+5%` or `top1:90%`."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from patch_compile.errors import PatchCompileError

__all__ = ["FIGURES", "Figure", "Limit", "check_figures", "parse_limit"]

Pruned = Mapping[str, Any]


@dataclass(frozen=True)
class Figure:
    """A figure that can have a limit.

    question: the question that measures it; read: returns the figure from the answers; base: returns the value that `+x%`
    is relative to, None if `+x%` makes no sense; at_least: True if more is better; decoders: True for models that predict
    next tokens, False for other models.
    """

    name: str
    words: str
    question: str
    read: Callable[[Pruned], float]
    base: Callable[[Pruned], float] | None = None
    at_least: bool = False
    decoders: bool = True


FIGURES = {
    figure.name: figure
    for figure in (
        Figure(
            "ppl",
            "perplexity",
            "pruned",
            lambda p: float(p["perplexity"]["pruned"]),
            lambda p: float(p["perplexity"]["dense"]),
        ),
        Figure("kl", "KL to the dense model, nats per token", "pruned", lambda p: float(p["kl"])),
        Figure(
            "top1",
            "share of positions with the dense model's next token",
            "pruned",
            lambda p: float(p["top1_agreement"]),
            at_least=True,
        ),
        Figure("logits", "mean error of a logit, in logits", "pruned", lambda p: float(p["logits"]["mean"])),
        Figure(
            "output",
            "largest relative error of an output",
            "pruned",
            lambda p: max(float(one["relative"]) for one in p["outputs"]),
            decoders=False,
        ),
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

    def check(self, pruned: Pruned) -> dict[str, Any]:
        """Returns the row of verify.json."""
        value, allowed = self.figure.read(pruned), self.value
        if self.relative:
            assert self.figure.base is not None
            allowed = self.figure.base(pruned) * (1.0 + self.value)
        passed = value >= allowed if self.figure.at_least else value <= allowed
        about = {"ask": self.spelled, "what": self.figure.words, "value": value, "limit": allowed}
        return {**about, "at_least": self.figure.at_least, "passed": passed}


def parse_limit(spelled: str) -> Limit:
    """Parse `NAME:LIMIT`, such as `ppl:+5%` (over the dense model's), `ppl:12.5`, `kl:0.1` or `top1:90%`.

    Raises ValueError for anything else.
    """
    found = _SPEC.fullmatch(spelled.strip())
    if found is None or found["name"] not in FIGURES:
        raise ValueError(
            f"{spelled!r} is not NAME:LIMIT such as ppl:+5%, ppl:12.5 or top1:90%, with a name of {', '.join(FIGURES)}"
        )
    figure, percent = FIGURES[found["name"]], bool(found["percent"])
    if found["plus"] and (figure.base is None or not percent):
        raise ValueError(f"{spelled!r}: only ppl takes +x%, which is over the dense model's")
    if percent and not found["plus"] and figure.name == "ppl":
        raise ValueError(f"{spelled!r}: per cent of what? ppl:+{found['number']}% is over the dense model's")
    value = float(found["number"]) * (0.01 if percent else 1.0)
    return Limit(figure, value, bool(found["plus"]), spelled.strip())


def check_figures(limits: tuple[Limit, ...], *, decoder: bool) -> None:
    """Raise PatchCompileError for a limit on a figure that this kind of model does not have: such a limit would never
    fail."""
    for limit in limits:
        if limit.figure.decoders != decoder:
            raise PatchCompileError(
                f"--fail-on {limit} can't be checked",
                f"This model has no {limit.figure.words}.",
                "Decoders have ppl, kl, top1 and logits; encoders and ONNX models have output.",
            )
