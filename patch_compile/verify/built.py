"""Checks that the engine was built right: compares it with the hybrid ONNX file on a GPU that can run the engine."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from patch_compile.errors import PatchCompileError
from patch_compile.out.layout import ENGINE
from patch_compile.progress import Progress
from patch_compile.runtime.decoder import Decoder, pad_left
from patch_compile.runtime.locate import Runner, open_generator
from patch_compile.sources.rounding import rounding_tolerance
from patch_compile.verify.compiled import error_stats

__all__ = ["built_right", "compare_decoders"]

_STEPS = 4  # decode steps after each prompt


def built_right(
    out: Path,
    prompts: Sequence[NDArray[np.int64]],
    dtype: str,
    layers: int,
    progress: Progress,
    *,
    trust: bool = False,
) -> dict[str, Any]:
    """Returns the difference between engine and ONNX file in the format of verify.json, or the reason why it was not
    measured.

    prompts: token ids; layers: number of the model's layers, which the tolerance depends on; trust: see
    `open_generator`.
    """
    if not (out / ENGINE).is_file():
        return {"ran": False, "why": "there is no engine: it was built with the backend onnx"}
    try:
        engine = open_generator(out, runner=Runner.ENGINE, trust=trust).decoder
    except PatchCompileError as error:
        return {"ran": False, "why": f"{error.what}: {error.why}" if error.why else error.what}
    with progress.stage("engine against hybrid ONNX"):
        reference = open_generator(out, runner=Runner.ONNX).decoder
        return {"ran": True, "engine": engine.name} | compare_decoders(
            engine, reference, prompts, dtype, layers
        )


def compare_decoders(
    engine: Decoder, reference: Decoder, prompts: Sequence[NDArray[np.int64]], dtype: str, layers: int
) -> dict[str, Any]:
    """Compare the last position's logits of each prompt and of some decode steps. Both models are fed the reference's
    tokens.

    Both compute in 16 bits but add in a different order, so the tolerance is twice that of rounding.
    """
    pairs = [pair for prompt in prompts for pair in _steps(engine, reference, prompt)]
    scale = max(float(np.abs(theirs).max()) for _, _, theirs in pairs)
    single, why = rounding_tolerance(dtype, layers)
    runs = [_row(name, mine, theirs, scale) for name, mine, theirs in pairs]
    error = max((run["error"] for run in runs), key=lambda one: np.inf if one is None else one)
    passed = error is not None and error <= 2.0 * single
    return {
        "passed": passed,
        "error": error,
        "tolerance": 2.0 * single,
        "why": f"2 × {why}: both round",
        "runs": runs,
    }


_Pair = tuple[str, NDArray[Any], NDArray[Any]]


def _steps(engine: Decoder, reference: Decoder, prompt: NDArray[np.int64]) -> list[_Pair]:
    given = pad_left([[int(token) for token in prompt]])
    with (
        closing(engine.start(*given, _STEPS)) as mine,
        closing(reference.start(*given, _STEPS)) as theirs,
    ):
        pairs = [(f"prefill, {len(prompt)} tokens", mine.logits.copy(), theirs.logits.copy())]
        for step in range(_STEPS):
            token = theirs.logits.argmax(-1).astype(np.int64)
            mine.step(token)
            theirs.step(token)
            name = f"decode, behind {len(prompt) + step} tokens"
            pairs.append((name, mine.logits.copy(), theirs.logits.copy()))
    return pairs


def _row(name: str, mine: NDArray[Any], theirs: NDArray[Any], scale: float) -> dict[str, Any]:
    phase, finite = name.partition(",")[0], bool(np.isfinite(mine).all())
    stats = error_stats(mine, theirs) if finite else None
    return {"name": name, "phase": phase, "error": stats["max"] / scale if stats else None, "stats": stats}
