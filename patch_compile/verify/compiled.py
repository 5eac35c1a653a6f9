"""Checks that the model was compiled right: prefill and decode of hybrid ONNX and pruned checkpoint, at several lengths.

Polygraphy compares them. Inputs and outputs are kept in its JSON format for use with its tools: `polygraphy inspect data
OUT/verify/hybrid.json`, `polygraphy run … --load-inputs OUT/verify/inputs.json`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from masklearn.masks.maskset import MaskSet
from patch_compile.onnx_io.runnable import runnable_onnx
from patch_compile.out.layout import ONNX, VERIFY_CHECKPOINT_NAME, VERIFY_HYBRID_NAME, VERIFY_INPUTS_NAME
from patch_compile.plan.lowering import plan_linears
from patch_compile.progress import Progress, Update
from patch_compile.sources.base import Source
from patch_compile.sources.rounding import rounding_tolerance
from patch_compile.verify.agreement import run_pruned
from patch_compile.verify.all_logits import with_all_logits
from patch_compile.verify.first_difference import find_first_difference
from patch_compile.verify.request import VerifyRequest
from patch_compile.verify.study import Feed, quiet_polygraphy, run_logits

__all__ = ["compiled_right", "error_stats", "judge_runs"]


def compiled_right(
    source: Source,
    masks: MaskSet,
    out: Path,
    folder: Path,
    windows: NDArray[np.int64],
    request: VerifyRequest,
    scratch: Path,
    progress: Progress,
) -> dict[str, Any]:
    """Returns the answer in the format of verify.json. Inputs and outputs are written to the existing folder `folder`.

    windows: token ids `[count, length]`, at least one token longer than the longest of the request's lengths.
    """
    with with_all_logits(out / ONNX) as full:
        hybrid = runnable_onnx(full, scratch)
        with progress.stage("hybrid on ONNX Runtime"):
            feeds, results, layers = run_logits(
                "hybrid ONNX", hybrid, list(_probes(windows, request.lengths))
            )
        with progress.stage("pruned reference"):
            checkpoint = run_pruned(source, out / source.pruned_file, feeds)
        _save(folder, feeds, results, checkpoint)
        answer = judge_runs(feeds, results, checkpoint, source, layers, request)
        if not answer["passed"]:
            with progress.stage("looking for the first tensor that differs"):
                answer["first_difference"] = _first_difference(
                    source, masks, out, hybrid, feeds, answer, scratch
                )
    return answer


def judge_runs(
    feeds: Sequence[Feed], results: Any, checkpoint: Any, source: Source, layers: int, request: VerifyRequest
) -> dict[str, Any]:
    """Compare two RunResults of the same feeds, run by run.

    The tolerance is that of rounding, as a share of the largest logit. --atol and --rtol of the request replace it; like
    those of Polygraphy, they are in units of logits.
    """
    reference = [iteration["logits"] for iteration in checkpoint[0][1]]
    scale = max(float(np.abs(logits).max()) for logits in reference)
    derived, why = rounding_tolerance(source.recipe.dtype, layers)
    asked = request.atol is not None or request.rtol is not None
    atol, rtol = (request.atol or 0.0, request.rtol or 0.0) if asked else (derived * scale, 0.0)
    runs = [
        _run_row(feed, mine["logits"], theirs, scale)
        for feed, (mine, theirs) in zip(feeds, zip(results[0][1], reference, strict=True), strict=True)
    ]
    if asked:
        why = f"as asked: --atol {atol:g} --rtol {rtol:g} --check-error-stat {request.check_error_stat}, in logits"
    return {
        "passed": _agree(results, checkpoint, atol, rtol, request.check_error_stat),
        "error": max((run["error"] for run in runs), key=lambda error: np.inf if error is None else error),
        "tolerance": (atol / scale) if asked else derived,
        "why": why,
        "against": source.pruned_words,
        "runs": runs,
        "first_difference": None,
    }


def error_stats(mine: NDArray[Any], theirs: NDArray[Any]) -> dict[str, float]:
    """Returns max, mean, median and rms of |difference|, in the unit of the arrays."""
    apart = np.abs(mine.astype(np.float64) - theirs)
    return {
        "max": float(apart.max()),
        "mean": float(apart.mean()),
        "median": float(np.median(apart)),
        "rms": float(np.sqrt(np.square(apart).mean())),
    }


def _agree(results: Any, checkpoint: Any, atol: float, rtol: float, stat: str) -> bool:
    from polygraphy.comparator import Comparator, RunResults, SimpleCompareFunc

    both = RunResults([results[0], checkpoint[0]])
    with quiet_polygraphy():
        judge = SimpleCompareFunc(atol=atol, rtol=rtol, check_error_stat=str(stat))
        return bool(Comparator.compare_accuracy(both, compare_func=judge))


def _run_row(feed: Feed, mine: NDArray[Any], theirs: NDArray[Any], scale: float) -> dict[str, Any]:
    """Returns the row of one run. error: largest |difference| / largest |logit| of all runs, None for values that are not
    finite."""
    tokens = feed["input_ids"].shape[1]
    past = feed["attention_mask"].shape[1] - tokens
    phase = "decode" if past else "prefill"
    name = f"decode, behind {past} tokens" if past else f"prefill, {tokens} tokens"
    finite = bool(np.isfinite(mine).all() and np.isfinite(theirs).all())
    stats = error_stats(mine, theirs) if finite else None
    error = stats["max"] / scale if stats else None
    return {"name": name, "phase": phase, "tokens": tokens, "past": past, "error": error, "stats": stats}


def _probes(windows: NDArray[np.int64], lengths: Sequence[int]) -> Iterator[NDArray[np.int64]]:
    """Yield tokens for a prefill of each length and one decode step, from different windows as far as there are
    enough."""
    for number, length in enumerate(lengths):
        window = windows[number % len(windows)]
        yield window[: length + 1]


def _save(folder: Path, feeds: list[Feed], results: Any, checkpoint: Any) -> None:
    from polygraphy.json import save_json

    with quiet_polygraphy():
        save_json(
            [dict(feed) for feed in feeds], str(folder / VERIFY_INPUTS_NAME), description="inputs of verify"
        )
        results.save(str(folder / VERIFY_HYBRID_NAME))
        checkpoint.save(str(folder / VERIFY_CHECKPOINT_NAME))


def _first_difference(
    source: Source,
    masks: MaskSet,
    out: Path,
    hybrid: Path,
    feeds: list[Feed],
    answer: dict[str, Any],
    scratch: Path,
) -> dict[str, Any] | None:
    """Returns the first wrong tensor of the worst run; None if the fault is in the part that reference and hybrid
    share."""
    reference = scratch / "reference.onnx"
    plan = plan_linears(masks, "dense")
    source.write_hybrid(out / source.pruned_file, masks, plan, reference, _no_bars)
    with with_all_logits(reference) as full:
        runnable = runnable_onnx(full, scratch)
        errors = [np.inf if run["error"] is None else run["error"] for run in answer["runs"]]
        found = find_first_difference(hybrid, runnable, feeds[int(np.argmax(errors))], source.recipe.dtype)
    return found.row() if found else None


def _no_bars(_name: str) -> AbstractContextManager[Update]:
    """Returns a progress function without a bar, because a bar is open already."""
    return nullcontext(lambda *_: True)
