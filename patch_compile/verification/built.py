"""Checks that the engine was built right: compares it with the hybrid ONNX file on a GPU that can run the engine."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from patch_compile.artifacts.layout import ENGINE
from patch_compile.artifacts.verify import EngineCompared, EngineNotRun, NotRun
from patch_compile.engine.backend import Runner
from patch_compile.errors import PatchCompileError
from patch_compile.progress import Progress
from patch_compile.runtime.decoder import Decoder, pad_left
from patch_compile.runtime.locate import open_generator
from patch_compile.sources.rounding import rounding_tolerance
from patch_compile.verification.compare_runs import compared_run, worst_error

_STEPS = 4  # decode steps after each prompt


def built_right(
    out: Path,
    prompts: Sequence[NDArray[np.int64]],
    dtype: str,
    layers: int,
    progress: Progress,
    *,
    trust: bool = False,
) -> EngineCompared | EngineNotRun:
    """Returns the difference between engine and ONNX file, or the reason why it was not measured.

    prompts: token ids; layers: number of the model's layers, which the tolerance depends on; trust: see
    `open_generator`.
    """
    if not (out / ENGINE).is_file():
        return EngineNotRun(reason=NotRun.NO_ENGINE)
    try:
        engine = open_generator(out, runner=Runner.ENGINE, trust=trust).decoder
    except PatchCompileError as error:
        text = f"{error.what}: {error.why}" if error.why else error.what
        return EngineNotRun(reason=NotRun.NOT_HERE, error=text)
    with progress.stage("engine against hybrid ONNX"):
        reference = open_generator(out, runner=Runner.ONNX).decoder
        return compare_decoders(engine, reference, prompts, dtype, layers)


def compare_decoders(
    engine: Decoder, reference: Decoder, prompts: Sequence[NDArray[np.int64]], dtype: str, layers: int
) -> EngineCompared:
    """Compare the last position's logits of each prompt and of some decode steps. Both models are fed the reference's
    tokens.

    Both compute in 16 bits but add in a different order, so the tolerance is twice the error of rounding.
    """
    pairs = [pair for prompt in prompts for pair in _steps(engine, reference, prompt)]
    scale = max(float(np.abs(theirs).max()) for *_, theirs in pairs)
    single = rounding_tolerance(dtype, layers)
    tolerance = single.model_copy(update={"share": 2.0 * single.share, "rounding_models": 2})
    runs = tuple(compared_run(*pair, scale) for pair in pairs)
    error = worst_error(runs)
    passed = error is not None and error <= tolerance.share
    return EngineCompared(engine=engine.name, passed=passed, error=error, tolerance=tolerance, runs=runs)


def _steps(
    engine: Decoder, reference: Decoder, prompt: NDArray[np.int64]
) -> list[tuple[int, int, NDArray[Any], NDArray[Any]]]:
    """Returns tokens, tokens before them, and both models' logits of the prompt and of each decode step."""
    given = pad_left([[int(token) for token in prompt]])
    with (
        closing(engine.start(*given, _STEPS)) as mine,
        closing(reference.start(*given, _STEPS)) as theirs,
    ):
        pairs = [(len(prompt), 0, mine.logits.copy(), theirs.logits.copy())]
        for step in range(_STEPS):
            token = theirs.logits.argmax(-1).astype(np.int64)
            mine.step(token)
            theirs.step(token)
            pairs.append((1, len(prompt) + step, mine.logits.copy(), theirs.logits.copy()))
    return pairs
