"""Checks that the model was compiled right: prefill and decode of hybrid ONNX and pruned checkpoint, at several lengths.

Polygraphy compares them. Inputs and outputs are kept in its JSON format for use with its tools: `polygraphy inspect data
OUT/verify/hybrid.json`, `polygraphy run … --load-inputs OUT/verify/inputs.json`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from masklearn.masks.maskset import MaskSet
from patch_compile.artifacts.layout import (
    ONNX,
    VERIFY_CHECKPOINT_NAME,
    VERIFY_HYBRID_NAME,
    VERIFY_INPUTS_NAME,
)
from patch_compile.artifacts.proof import AskedTolerance, Tolerance, ToleranceOrigin
from patch_compile.artifacts.verify_schema import ComparedRun, ErrorStats, FirstDifference, OnnxCheck
from patch_compile.onnx_io.feeds import Feed
from patch_compile.onnx_io.runnable import runnable_onnx
from patch_compile.onnx_io.tensor_names import ATTENTION_MASK, INPUT_IDS, LOGITS
from patch_compile.planning.lowering import plan_linears
from patch_compile.progress import Progress, Update
from patch_compile.sources.base import Source
from patch_compile.sources.rounding import rounding_tolerance
from patch_compile.verification.agreement import PrunedRuns, measured_tolerance, run_pruned
from patch_compile.verification.all_logits import with_all_logits
from patch_compile.verification.choices import with_choices
from patch_compile.verification.first_difference import find_first_difference
from patch_compile.verification.request import VerifyRequest
from patch_compile.verification.run_model import ModelRuns, quiet_polygraphy, run_logits

__all__ = ["compiled_right", "error_stats", "judge_runs", "worst_error"]


def compiled_right(
    source: Source,
    masks: MaskSet,
    out: Path,
    folder: Path,
    windows: NDArray[np.int64],
    request: VerifyRequest,
    scratch: Path,
    progress: Progress,
) -> OnnxCheck:
    """Returns the answer. Inputs and outputs are written to the existing folder `folder`.

    windows: token ids `[count, length]`, at least one token longer than the longest of the request's lengths.
    """
    with with_all_logits(out / ONNX) as full:
        hybrid, pruned = runnable_onnx(full, scratch), out / source.pruned_file
        with progress.stage("hybrid on ONNX Runtime"), with_choices(hybrid) as (graph, choices):
            runs = run_logits("hybrid ONNX", graph, _probes(windows, request.lengths), choices)
        with progress.stage("pruned reference"):
            checkpoint = run_pruned(source, pruned, runs)
        _save(folder, runs, checkpoint.results)
        answer = judge_runs(runs, checkpoint, source, request)
        if not answer.passed and answer.error is not None and answer.tolerance.asked is None:
            measured = measured_tolerance(source, pruned, runs, checkpoint.logits)
            passed = answer.error <= measured.share
            answer = answer.model_copy(update={"passed": passed, "tolerance": measured})
        if answer.passed:
            return answer
        with progress.stage("looking for the first tensor that differs"):
            first = _first_difference(source, masks, out, hybrid, runs.feeds, answer, scratch)
    return answer.model_copy(update={"first_difference": first})


def judge_runs(
    hybrid: ModelRuns, checkpoint: PrunedRuns, source: Source, request: VerifyRequest
) -> OnnxCheck:
    """Compare runs of the same feeds.

    The tolerance is that of rounding, as a share of the largest logit. --atol and --rtol of the request replace it; like
    those of Polygraphy, they are in units of logits. Choices of routers may lose no more than rounding explains.
    """
    reference = checkpoint.logits
    scale = max(float(np.abs(logits).max()) for logits in reference)
    rounding = rounding_tolerance(source.recipe.dtype, hybrid.layers)
    tolerance = _asked(request, scale) or rounding
    asked = tolerance.asked
    atol, rtol = (asked.atol, asked.rtol) if asked else (tolerance.share * scale, 0.0)
    runs = tuple(
        _run(feed, mine[LOGITS], theirs, scale)
        for feed, mine, theirs in zip(hybrid.feeds, hybrid.results[0][1], reference, strict=True)
    )
    error = worst_error(runs)  # None, which no tolerance allows, if a logit is not finite
    alike = _agree(hybrid.results, checkpoint.results, atol, rtol, request.check_error_stat)
    return OnnxCheck(
        passed=error is not None and alike and checkpoint.lost <= rounding.share,
        error=None if error is None else max(error, checkpoint.lost),
        tolerance=tolerance,
        runs=runs,
    )


def worst_error(runs: Iterable[ComparedRun]) -> float | None:
    """Returns the largest error, None if one is not finite."""
    errors = [run.error for run in runs]
    return None if None in errors else max(error for error in errors if error is not None)


def error_stats(mine: NDArray[Any], theirs: NDArray[Any]) -> ErrorStats | None:
    """Returns statistics of |difference|, in the unit of the arrays; None if a value is not finite."""
    if not (np.isfinite(mine).all() and np.isfinite(theirs).all()):
        return None
    apart = np.abs(mine.astype(np.float64) - theirs)
    return ErrorStats(
        max=float(apart.max()),
        mean=float(apart.mean()),
        median=float(np.median(apart)),
        rms=float(np.sqrt(np.square(apart).mean())),
    )


def _asked(request: VerifyRequest, scale: float) -> Tolerance | None:
    """Returns the tolerance of --atol and --rtol, None if neither is given."""
    if request.atol is None and request.rtol is None:
        return None
    asked = AskedTolerance(
        atol=request.atol or 0.0, rtol=request.rtol or 0.0, statistic=request.check_error_stat
    )
    return Tolerance(share=asked.atol / scale, origin=ToleranceOrigin.ASKED, asked=asked)


def _agree(results: Any, checkpoint: Any, atol: float, rtol: float, stat: str) -> bool:
    from polygraphy.comparator import Comparator, RunResults, SimpleCompareFunc

    both = RunResults([results[0], checkpoint[0]])
    with quiet_polygraphy():
        judge = SimpleCompareFunc(atol=atol, rtol=rtol, check_error_stat=str(stat))
        return bool(Comparator.compare_accuracy(both, compare_func=judge))


def _run(feed: Feed, mine: NDArray[Any], theirs: NDArray[Any], scale: float) -> ComparedRun:
    """Returns the row of one run. scale: largest |logit| of all runs."""
    tokens = feed[INPUT_IDS].shape[1]
    past = feed[ATTENTION_MASK].shape[1] - tokens
    stats = error_stats(mine, theirs)
    return ComparedRun(
        phase="decode" if past else "prefill",
        tokens=tokens,
        past=past,
        error=stats.max / scale if stats else None,
        stats=stats,
    )


def _probes(windows: NDArray[np.int64], lengths: Sequence[int]) -> Iterator[NDArray[np.int64]]:
    """Yield tokens for a prefill of each length and one decode step, from different windows as far as there are
    enough."""
    for number, length in enumerate(lengths):
        window = windows[number % len(windows)]
        yield window[: length + 1]


def _save(folder: Path, hybrid: ModelRuns, checkpoint: Any) -> None:
    from polygraphy.json import save_json

    with quiet_polygraphy():
        save_json(
            [dict(feed) for feed in hybrid.feeds],
            str(folder / VERIFY_INPUTS_NAME),
            description="inputs of verify",
        )
        hybrid.results.save(str(folder / VERIFY_HYBRID_NAME))
        checkpoint.save(str(folder / VERIFY_CHECKPOINT_NAME))


def _first_difference(
    source: Source,
    masks: MaskSet,
    out: Path,
    hybrid: Path,
    feeds: Sequence[Feed],
    answer: OnnxCheck,
    scratch: Path,
) -> FirstDifference | None:
    """Returns the first wrong tensor of the worst run; None if the fault is in the part that reference and hybrid
    share."""
    reference = scratch / "reference.onnx"
    plan = plan_linears(masks, "dense")
    source.write_hybrid(out / source.pruned_file, masks, plan, reference, _no_bars)
    with with_all_logits(reference) as full:
        runnable = runnable_onnx(full, scratch)
        errors = [np.inf if run.error is None else run.error for run in answer.runs]
        return find_first_difference(hybrid, runnable, feeds[int(np.argmax(errors))], source.recipe.dtype)


def _no_bars(_name: str) -> AbstractContextManager[Update]:
    """Returns a progress function without a bar, because a bar is open already."""
    return nullcontext(lambda *_: True)
