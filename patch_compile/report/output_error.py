"""Warns of outputs that pruning has moved so far that little of the model is left."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from patch_compile.out.proof import OutputsDifference
from patch_compile.out.report import Kind

__all__ = ["output_warning"]

_MUCH = 0.5  # relative error of an output; unrelated outputs of one size are 1.4 apart


def output_warning(report: Mapping[str, Any]) -> str:
    """Returns a warning and what to do about it, for a report of outputs; empty if no output moved that far."""
    worst = OutputsDifference.model_validate(report["difference"]).worst
    if not worst.floating or (worst.relative is not None and worst.relative < _MUCH):
        return ""
    by = "to values that are not finite" if worst.relative is None else f"by {worst.relative:.0%} of its norm"
    what = f"Pruning moved the output {worst.output!r} {by}."
    less = "prune less (--ratio), or leave the linears dense that matter most (--exclude)."
    if report["kind"] == Kind.ONNX and not report["learned"].get("inputs"):
        return (
            f"{what} The masks were chosen without inputs, and outputs may be compared on inputs unlike real ones: give "
            f"real inputs with --calib inputs.npz, and no --method; or {less}"
        )
    return f"{what} To lose less, {less}"
