"""Warns of outputs that pruning has moved far, and of outputs that say little about the compiled model."""

from __future__ import annotations

from collections.abc import Iterator

from patch_compile.artifacts.report import Kind, OutputsReport

__all__ = ["output_warnings"]

_MUCH = 0.5  # relative error of an output; unrelated outputs of one size are 1.4 apart
_VAGUE = 0.1  # share of the largest output that rounding may move


def output_warnings(report: OutputsReport) -> Iterator[str]:
    """Yield warnings, each with what to do about it, for a report in which outputs are compared."""
    worst = report.difference.worst
    if worst.floating and (worst.relative is None or worst.relative >= _MUCH):
        far = "beyond what is finite" if worst.relative is None else f"by {worst.relative:.0%} of its norm"
        yield f"Pruning moved the output {worst.output!r} {far}. {_how_to_lose_less(report)}"
    allowed = report.agreement.tolerance.share
    if allowed > _VAGUE:
        yield (
            f"On the inputs that outputs are compared on, rounding alone moves them by {allowed:.0%} of the largest, so "
            "that it hardly shows whether the model was compiled right. Give real inputs with --calib."
        )


def _how_to_lose_less(report: OutputsReport) -> str:
    less = "prune less (--ratio), or leave the linears dense that matter most (--exclude)."
    if report.kind is Kind.ONNX and not report.learned.inputs:
        return (
            "The masks were chosen without inputs, and outputs may be compared on inputs unlike real ones: give real "
            f"inputs with --calib inputs.npz, and no --method; or {less}"
        )
    return f"To lose less, {less}"
