"""Built right? The engine against the hybrid ONNX file, where a GPU can run the engine."""

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

_STEPS = 4  # decode steps behind each prompt


def built_right(
    out: Path,
    prompts: Sequence[NDArray[np.int64]],
    dtype: str,
    layers: int,
    progress: Progress,
) -> dict[str, Any]:
    """The answer as verify.json has it: why it could not be run, or how far engine and ONNX file are apart.

    prompts: token ids; layers: of the model, which the tolerance depends on.
    """
    if not (out / ENGINE).is_file():
        return {"ran": False, "why": "there is no engine: it was built with the backend onnx"}
    try:
        engine = open_generator(out, runner=Runner.ENGINE).decoder
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
    """The last position's logits of each prompt and of some steps behind it, both fed the reference's tokens.

    Both compute in 16 bits, in another order of sums, so the tolerance is twice that of rounding.
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
