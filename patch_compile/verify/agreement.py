"""Compiled right? The hybrid ONNX against the pruned checkpoint run by transformers, with Polygraphy.

Both hold the same 16-bit weights, so they may differ by rounding alone: transformers computes in fp32, the graph
rounds its activations to 16 bits. The dense ONNX is compared likewise; that difference is pruning, which is reported
and not judged.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from masklearn.checkpoint.models import cache_argument, load_model
from masklearn.checkpoint.pretrained import load_config
from patch_compile.errors import AccuracyError
from patch_compile.verify.study import Feed, Study, quiet_polygraphy

__all__ = [
    "Agreement",
    "compiled_wrongly",
    "judge_agreement",
    "layers_of",
    "rounding_tolerance",
    "run_checkpoint",
]

_UNIT_ROUNDOFF = {"float16": 2.0**-11, "bfloat16": 2.0**-8}
# Roundings to 16 bits that one block adds to the residual stream, as counted in the graph: norm, q, k, v, rotary,
# attention, o, add; norm, gate, up, SiLU, product, down, add. A PatchLinear with an epilogue rounds once for its part.
_ROUNDINGS_PER_LAYER = 15
_DEVIATIONS = 3.0


@dataclass(frozen=True)
class Agreement:
    """error: largest |difference| of a logit / largest |logit|, over all feeds; `dense_error` likewise to dense."""

    error: float
    tolerance: float
    why: str
    dense_error: float
    feeds: int


def rounding_tolerance(dtype: str, layers: int) -> tuple[float, str]:
    """Allowed error of a logit, as a share of the largest, and its derivation in words.

    Each of n roundings moves the result by at most the unit roundoff u of the type, in a random direction, so
    together by some u·√n (Higham & Mary 2019, probabilistic rounding error analysis); the largest of many logits
    lies up to three deviations out. Measured: 1.3·u·√n for random models of 2 layers, 0.4·u·√n for SmolLM2.
    """
    roundoff = _UNIT_ROUNDOFF[dtype]
    roundings = _ROUNDINGS_PER_LAYER * layers + 2  # and the last norm and the head
    why = (
        f"{_DEVIATIONS:g}·u·√n, u = {roundoff:.2e} for {dtype}, n = {roundings} roundings in {layers} layers"
    )
    return float(_DEVIATIONS * roundoff * np.sqrt(roundings)), why


def layers_of(model_dir: Path) -> int:
    """How many blocks a model has, by its config."""
    return int(load_config(model_dir).get_text_config().num_hidden_layers)


def judge_agreement(hybrid: Study, dense: Study, checkpoint: Any, dtype: str) -> Agreement:
    """Compare the studies with the RunResults of `run_checkpoint` over the same feeds.

    Raises AccuracyError (exit 3) when hybrid and checkpoint differ by more than rounding explains.
    """
    from polygraphy.comparator import Comparator, RunResults, SimpleCompareFunc

    reference = [iteration["logits"] for iteration in checkpoint[0][1]]
    scale = max(float(np.abs(logits).max()) for logits in reference)
    tolerance, why = rounding_tolerance(dtype, hybrid.layers)
    both = RunResults([hybrid.results[0], checkpoint[0]])
    with quiet_polygraphy():
        judge = SimpleCompareFunc(atol=tolerance * scale, rtol=0.0, check_error_stat="max")
        agreed = bool(Comparator.compare_accuracy(both, compare_func=judge))
    error = _largest(hybrid.results, reference) / scale
    if not agreed:
        raise compiled_wrongly(error, tolerance, why)
    return Agreement(error, tolerance, why, _largest(dense.results, reference) / scale, len(reference))


def compiled_wrongly(error: float, tolerance: float, why: str) -> AccuracyError:
    """What to raise when hybrid and checkpoint differ by more than rounding explains."""
    return AccuracyError(
        f"the hybrid ONNX differs from the pruned checkpoint by {error:.2e} of the largest logit",
        f"rounding explains {tolerance:.2e}: {why}",
        "this is a fault of the compiler: please report it with the model's config.json and the recipe",
    )


def run_checkpoint(directory: Path, dtype: str, feeds: list[Feed]) -> Any:
    """Polygraphy's RunResults of the checkpoint: weights rounded to `dtype`, arithmetic in fp32."""
    import torch
    from polygraphy.backend.base import BaseRunner
    from polygraphy.common import TensorMetadata
    from polygraphy.comparator import Comparator
    from transformers import DynamicCache

    class TransformersRunner(BaseRunner):  # type: ignore[misc]
        def activate_impl(self) -> None:
            self.model = load_model(directory, dtype=getattr(torch, dtype)).float()

        def get_input_metadata_impl(self) -> Any:
            metadata = TensorMetadata()
            for name, value in feeds[0].items():
                metadata.add(name, dtype=value.dtype, shape=(None,) * value.ndim)
            return metadata

        def infer_impl(self, feed_dict: Feed) -> Any:
            given = {name: torch.from_numpy(np.asarray(value)) for name, value in feed_dict.items()}
            cache = DynamicCache(config=self.model.config)
            for layer in range(self.model.config.get_text_config().num_hidden_layers):
                key, value = (
                    given.pop(f"past_key_values.{layer}.{part}").float() for part in ("key", "value")
                )
                if key.shape[2]:
                    cache.update(key, value, layer)
            start = time.perf_counter()
            with torch.no_grad():
                logits = self.model(**given, **{cache_argument(self.model): cache}).logits
            self.inference_time = time.perf_counter() - start
            return OrderedDict(logits=logits.numpy())

        def deactivate_impl(self) -> None:
            del self.model

    with quiet_polygraphy():
        return Comparator.run([TransformersRunner(name="pruned checkpoint")], data_loader=feeds)


def _largest(results: Any, reference: list[Any]) -> float:
    pairs = zip(results[0][1], reference, strict=True)
    return max(float(np.abs(r["logits"] - ref).max()) for r, ref in pairs)
