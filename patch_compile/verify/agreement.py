"""Checks that the model was compiled right: compares the hybrid ONNX with the pruned checkpoint in transformers, by
Polygraphy.

Both hold the same 16-bit weights and may differ only by rounding: transformers computes in fp32, the graph rounds its
activations to 16 bits. The dense ONNX is compared in the same way. That difference is the effect of pruning; it is
reported without a limit.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np

from patch_compile.errors import AccuracyError
from patch_compile.out.proof import Agreement, Tolerance
from patch_compile.report.proof import tolerance_words
from patch_compile.sources.base import Source
from patch_compile.sources.rounding import rounding_tolerance
from patch_compile.verify.study import Feed, Study, quiet_polygraphy

__all__ = [
    "compiled_wrongly",
    "judge_agreement",
    "run_pruned",
]


def judge_agreement(hybrid: Study, dense: Study, checkpoint: Any, dtype: str) -> Agreement:
    """Compare the studies with the RunResults of `run_pruned` for the same feeds.

    Raises AccuracyError (exit code 3) if hybrid and checkpoint differ by more than rounding explains.
    """
    from polygraphy.comparator import Comparator, RunResults, SimpleCompareFunc

    reference = [iteration["logits"] for iteration in checkpoint[0][1]]
    scale = max(float(np.abs(logits).max()) for logits in reference)
    tolerance = rounding_tolerance(dtype, hybrid.layers)
    both = RunResults([hybrid.results[0], checkpoint[0]])
    with quiet_polygraphy():
        judge = SimpleCompareFunc(atol=tolerance.share * scale, rtol=0.0, check_error_stat="max")
        agreed = bool(Comparator.compare_accuracy(both, compare_func=judge))
    error = _largest(hybrid.results, reference) / scale
    if not agreed:
        raise compiled_wrongly(error, tolerance)
    dense_error = _largest(dense.results, reference) / scale
    return Agreement(error=error, tolerance=tolerance, dense_error=dense_error, feeds=len(reference))


def compiled_wrongly(error: float, tolerance: Tolerance) -> AccuracyError:
    """Returns the error for a hybrid model that differs from the checkpoint by more than rounding explains."""
    return AccuracyError(
        f"The hybrid ONNX differs from the pruned checkpoint by {error:.2e} of the largest logit",
        f"Rounding explains {tolerance.share:.2e}: {tolerance_words(tolerance)}.",
        "This is a fault of the compiler: please report it with the model's config.json and the recipe.",
    )


def run_pruned(source: Source, pruned: Path, feeds: list[Feed]) -> Any:
    """Run the pruned model on feeds of the hybrid graph, and return Polygraphy's RunResults of its logits."""
    from polygraphy.backend.base import BaseRunner
    from polygraphy.common import TensorMetadata
    from polygraphy.comparator import Comparator

    class PrunedRunner(BaseRunner):  # type: ignore[misc]
        def activate_impl(self) -> None:
            self.logits = source.pruned_logits(pruned)

        def get_input_metadata_impl(self) -> Any:
            metadata = TensorMetadata()
            for name, value in feeds[0].items():
                metadata.add(name, dtype=value.dtype, shape=(None,) * value.ndim)
            return metadata

        def infer_impl(self, feed_dict: Feed) -> Any:
            start = time.perf_counter()
            logits = self.logits(feed_dict)
            self.inference_time = time.perf_counter() - start
            return OrderedDict(logits=logits)

        def deactivate_impl(self) -> None:
            del self.logits

    with quiet_polygraphy():
        return Comparator.run([PrunedRunner(name=source.pruned_words)], data_loader=feeds)


def _largest(results: Any, reference: list[Any]) -> float:
    pairs = zip(results[0][1], reference, strict=True)
    return max(float(np.abs(r["logits"] - ref).max()) for r, ref in pairs)
