"""Checks that the model was compiled right: compares the hybrid ONNX with the pruned checkpoint in transformers, by
Polygraphy.

Both hold the same 16-bit weights and may differ only by rounding: transformers computes in fp32, the graph rounds its
activations to 16 bits. Routers of a mixture of experts choose what the hybrid ONNX chooses, see `choices.py`. The dense
ONNX is compared in the same way. That difference is the effect of pruning; it is reported without a limit.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from patch_compile.artifacts.proof import Agreement, Tolerance, ToleranceOrigin
from patch_compile.errors import AccuracyError
from patch_compile.onnx_io.feeds import Feed
from patch_compile.onnx_io.tensor_names import LOGITS
from patch_compile.report.proof import tolerance_words
from patch_compile.sources.base import Source
from patch_compile.sources.rounding import rounding_tolerance, roundings_of, tolerance_of
from patch_compile.verification.choices import Followed, following
from patch_compile.verification.run_model import ModelAnswers, ModelRuns, quiet_polygraphy

__all__ = [
    "PrunedRuns",
    "compiled_wrongly",
    "judge_agreement",
    "measured_tolerance",
    "run_pruned",
]


@dataclass(frozen=True)
class PrunedRuns:
    """Runs of the pruned model.

    results: Polygraphy's RunResults of its logits; lost: the most that a choice of the graph's routers loses against the
    best one, see `Followed`.
    """

    results: Any
    lost: float = 0.0

    @property
    def logits(self) -> list[NDArray[Any]]:
        """Returns fp32 logits for each feed."""
        return [iteration[LOGITS] for iteration in self.results[0][1]]


def judge_agreement(
    hybrid: ModelAnswers,
    dense: ModelAnswers,
    checkpoint: PrunedRuns,
    dtype: str,
    measure: Callable[[], Tolerance] | None = None,
) -> Agreement:
    """Compare the studies with what `run_pruned` returns for the same feeds.

    measure: measures the tolerance if the derived one is exceeded, see `measured_tolerance`; None for the derived one
    alone. Raises AccuracyError (exit code 3) if hybrid and checkpoint differ by more than rounding explains, and if a logit
    of either is not finite.
    """
    from polygraphy.comparator import Comparator, RunResults, SimpleCompareFunc

    reference = checkpoint.logits
    scale = float(np.max([np.abs(logits).max() for logits in reference]))
    tolerance = rounding_tolerance(dtype, hybrid.runs.layers)
    both = RunResults([hybrid.runs.results[0], checkpoint.results[0]])
    with quiet_polygraphy():
        judge = SimpleCompareFunc(atol=tolerance.share * scale, rtol=0.0, check_error_stat="max")
        agreed = bool(Comparator.compare_accuracy(both, compare_func=judge))
    error = _largest(hybrid.runs.results, reference) / scale
    if not np.isfinite(error):
        raise _not_finite(dtype)
    error = max(error, checkpoint.lost)
    agreed = agreed and checkpoint.lost <= tolerance.share
    if not agreed and measure is not None:
        tolerance = measure()
        agreed = error <= tolerance.share
    if not agreed:
        raise compiled_wrongly(error, tolerance)
    dense_error = _largest(dense.runs.results, reference) / scale
    return Agreement(error=error, tolerance=tolerance, dense_error=dense_error, feeds=len(reference))


def measured_tolerance(source: Source, pruned: Path, runs: ModelRuns, reference: Sequence[Any]) -> Tolerance:
    """Returns the tolerance for a model that amplifies roundings more than a model of its depth usually does.

    Rows of equal weights, for example, round in one direction. As for ONNX files, the tolerance is twice the error of the
    pruned model itself when transformers computes it in 16 bits, which involves nothing that this project compiled.

    runs: those of the hybrid graph, for feeds and choices; reference: the pruned model's logits in fp32 for each feed.
    """
    rounded = _followed(source.pruned_logits(pruned, sixteen_bits=True), runs)
    scale = float(np.max([np.abs(exact).max() for exact in reference]))
    apart = [np.abs(logits - exact).max() for (logits, _), exact in zip(rounded, reference, strict=True)]
    error = float(np.max(apart)) / scale
    measured = 2.0 * error if np.isfinite(error) else 0.0
    rounding = replace(roundings_of(runs.layers), measured=measured, by=ToleranceOrigin.SIXTEEN_BITS)
    return tolerance_of(source.recipe.dtype, rounding)


def _not_finite(dtype: str) -> AccuracyError:
    return AccuracyError(
        "Logits of the hybrid ONNX or of the pruned checkpoint are not finite",
        f"An activation of the pruned model exceeds what {dtype} holds.",
        "Choose bf16 (--dtype bfloat16), or leave the linear before it dense with --exclude.",
    )


def compiled_wrongly(error: float, tolerance: Tolerance) -> AccuracyError:
    """Returns the error for a hybrid model that differs from the checkpoint by more than rounding explains."""
    return AccuracyError(
        f"The hybrid ONNX differs from the pruned checkpoint by {error:.2e} of the largest logit",
        f"Rounding explains {tolerance.share:.2e}: {tolerance_words(tolerance)}.",
        "This is a fault of the compiler: please report it with the model's config.json and the recipe.",
    )


def run_pruned(source: Source, pruned: Path, runs: ModelRuns) -> PrunedRuns:
    """Run the pruned model on the feeds of the hybrid graph. Its routers choose what the graph has chosen."""
    from polygraphy.backend.base import BaseRunner
    from polygraphy.common import TensorMetadata
    from polygraphy.comparator import Comparator

    lost = 0.0

    class PrunedRunner(BaseRunner):  # type: ignore[misc]
        def activate_impl(self) -> None:
            self.answers = _followed(source.pruned_logits(pruned), runs)

        def get_input_metadata_impl(self) -> Any:
            metadata = TensorMetadata()
            for name, value in runs.feeds[0].items():
                metadata.add(name, dtype=value.dtype, shape=(None,) * value.ndim)
            return metadata

        def infer_impl(self, feed_dict: Feed) -> Any:  # noqa: ARG002
            nonlocal lost
            start = time.perf_counter()
            logits, followed = next(self.answers)
            self.inference_time = time.perf_counter() - start
            lost = max(lost, followed.lost)
            return OrderedDict(logits=logits)

        def deactivate_impl(self) -> None:
            del self.answers

    with quiet_polygraphy():
        results = Comparator.run([PrunedRunner(name=source.pruned_words)], data_loader=runs.feeds)
    return PrunedRuns(results, lost)


def _followed(
    logits: Callable[[Feed], NDArray[np.float32]], runs: ModelRuns
) -> Iterator[tuple[NDArray[np.float32], Followed]]:
    """Yield a model's logits for each feed, with the choices that the graph has made for that feed."""
    for feed, choices in zip(runs.feeds, runs.choices, strict=True):
        with following(choices) as followed:
            made = logits(feed)
        yield made, followed


def _largest(results: Any, reference: list[Any]) -> float:
    pairs = zip(results[0][1], reference, strict=True)
    return float(np.max([np.abs(r[LOGITS] - ref).max() for r, ref in pairs]))  # NaN if one is NaN
