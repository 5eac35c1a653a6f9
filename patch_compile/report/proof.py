"""Puts comparisons of a build's models into words: tolerances, and the text or inputs they were made on."""

from __future__ import annotations

from patch_compile.artifacts.proof import ComparedInputs, TextRunner, TextWindows, Tolerance, ToleranceOrigin
from patch_compile.artifacts.report import Kind
from patch_compile.onnx_io.feeds import inputs_words
from patch_compile.sources.rounding import DEVIATIONS, UNIT_ROUNDOFF

__all__ = ["compared_words", "given_words", "pruned_words", "text_words", "tolerance_words"]

_MEASURED = {
    ToleranceOrigin.ROUNDED_LINEARS: "what rounding X and Y of the same linears does to the pruned model",
    ToleranceOrigin.SIXTEEN_BITS: "twice what computing in 16 bits instead of fp32 does to the pruned model",
}
_RUNNERS = {TextRunner.ONNX_RUNTIME: "ONNX Runtime", TextRunner.CHECKPOINTS: "both checkpoints"}
_TYPES = {"float32": "fp32"}


def tolerance_words(tolerance: Tolerance) -> str:
    """Returns the derivation of a tolerance."""
    if asked := tolerance.asked:
        flags = f"--atol {asked.atol:g} --rtol {asked.rtol:g} --check-error-stat {asked.statistic}"
        return f"as asked: {flags}, in logits"
    words = _MEASURED.get(tolerance.origin) or _derived(tolerance)
    return words if tolerance.rounding_models == 1 else f"{tolerance.rounding_models} × {words}: both round"


def _derived(tolerance: Tolerance) -> str:
    assert tolerance.dtype is not None  # a derived tolerance has a type
    where = "" if tolerance.layers is None else f" in {tolerance.layers} layers"
    roundoff = f"u = {UNIT_ROUNDOFF[tolerance.dtype]:.2e} for {tolerance.dtype}"
    return f"{DEVIATIONS:g}·u·√n, {roundoff}, n = {tolerance.roundings} roundings{where}"


def text_words(on: TextWindows) -> str:
    """Returns name and size of a text, and the program that ran the models on it."""
    windows = f"{on.windows} window{'s' * (on.windows != 1)} × {on.length} tokens"
    words = f"{on.name}, {windows}, {_TYPES.get(on.dtype, on.dtype)}"
    return words if on.runner is None else f"{words}, {_RUNNERS[on.runner]}"


def given_words(inputs: ComparedInputs) -> str:
    """Returns a description of the inputs that were given."""
    given = inputs.given
    return text_words(given) if isinstance(given, TextWindows) else inputs_words(given)


def compared_words(inputs: ComparedInputs) -> str:
    """Returns the number of runs that were compared, and a description of the inputs."""
    return f"{inputs.compared} run{'s' * (inputs.compared != 1)} of {given_words(inputs)}"


def pruned_words(kind: Kind) -> str:
    """Returns the name of the pruned model that the hybrid ONNX is compared with."""
    return "pruned ONNX" if kind is Kind.ONNX else "pruned checkpoint"
