"""Checks that the model was compiled right: prefill and decode of hybrid ONNX and pruned checkpoint, at several lengths.

Inputs and outputs are kept in Polygraphy's JSON format for use with its tools: `polygraphy inspect data
OUT/verify/hybrid.json`, `polygraphy run … --load-inputs OUT/verify/inputs.json`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from masklearn.masks.maskset import MaskSet
from patch_compile.artifacts.layout import (
    ONNX,
    VERIFY_CHECKPOINT_NAME,
    VERIFY_HYBRID_NAME,
    VERIFY_INPUTS_NAME,
)
from patch_compile.artifacts.proof import AskedTolerance
from patch_compile.artifacts.verify_schema import FirstDifference, OnnxCheck
from patch_compile.onnx_io.feeds import Feed
from patch_compile.onnx_io.runnable import decoded_onnx, runnable_onnx
from patch_compile.progress import Progress
from patch_compile.runtime.onnx_decoder import OnnxDecoder
from patch_compile.sources.base import TokenSource
from patch_compile.verification.compare_runs import (
    GraphRuns,
    Runs,
    compare_runs,
    feeds_of,
    measured_tolerance,
    note_memory,
    quiet_polygraphy,
    run_graph,
    run_pruned,
)
from patch_compile.verification.first_difference import find_first_difference, write_dense_reference
from patch_compile.verification.graph_outputs import with_all_logits, with_choices
from patch_compile.verification.request import VerifyRequest


def compiled_right(
    source: TokenSource,
    masks: MaskSet,
    out: Path,
    folder: Path,
    windows: NDArray[np.int64],
    request: VerifyRequest,
    scratch: Path,
    progress: Progress,
) -> OnnxCheck:
    """Returns the answer. Inputs and outputs are written to the existing folder `folder`.

    windows: token ids `[count, length]`, at least one token longer than the longest of the request's lengths. --atol and
    --rtol are in units of logits, as in Polygraphy.
    """
    pruned, statistic = out / source.format.pruned_file, request.check_error_stat
    asked = None
    if request.atol is not None or request.rtol is not None:
        asked = AskedTolerance(atol=request.atol or 0.0, rtol=request.rtol or 0.0, statistic=statistic)
    note_memory(source, progress)
    with with_all_logits(out / ONNX) as full:
        hybrid = runnable_onnx(full, scratch)
        with progress.stage("hybrid on ONNX Runtime") as update:
            decoded = decoded_onnx(hybrid, scratch, update)
            with with_choices(decoded) as (graph, choices):
                update("running", 0, 1)
                decoder = OnnxDecoder(graph, mapped=not source.fits_in_memory)
                feeds = feeds_of(decoder, _probes(windows, request.lengths))
                runs = run_graph("hybrid ONNX", decoder, feeds, choices)
                del decoder
        with progress.stage("pruned reference"):
            reference = run_pruned(source, source.reference_logits(pruned), runs)
        _save(folder, runs, reference)
        measure = partial(measured_tolerance, source, pruned, runs, reference)
        answer = compare_runs(runs, reference, source.recipe.dtype, measure, asked=asked, statistic=statistic)
        if answer.passed:
            return answer
        with progress.stage("looking for the first tensor that differs"):
            first = _first_difference(source, masks, out, (hybrid, decoded), runs.feeds, answer, scratch)
    return answer.model_copy(update={"first_difference": first})


def _probes(windows: NDArray[np.int64], lengths: Sequence[int]) -> Iterator[NDArray[np.int64]]:
    """Yield tokens for a prefill of each length and one decode step, from different windows as far as there are
    enough."""
    for number, length in enumerate(lengths):
        window = windows[number % len(windows)]
        yield window[: length + 1]


def _save(folder: Path, hybrid: GraphRuns, reference: Runs) -> None:
    from polygraphy.json import save_json

    inputs = [dict(feed) for feed in hybrid.feeds]
    with quiet_polygraphy():
        save_json(inputs, str(folder / VERIFY_INPUTS_NAME), description="inputs of verify")
        hybrid.polygraphy().save(str(folder / VERIFY_HYBRID_NAME))
        reference.polygraphy().save(str(folder / VERIFY_CHECKPOINT_NAME))


def _first_difference(
    source: TokenSource,
    masks: MaskSet,
    out: Path,
    files: tuple[Path, Path],
    feeds: Sequence[Feed],
    answer: OnnxCheck,
    scratch: Path,
) -> FirstDifference | None:
    """Returns the first wrong tensor of the worst run; None if the fault is in the part that reference and hybrid
    share.

    files: the hybrid and its decoded copy.
    """
    reference = scratch / "reference.onnx"
    write_dense_reference(source, out, masks, reference)
    with with_all_logits(reference) as full:
        runnable = runnable_onnx(full, scratch)
        errors = [np.inf if run.error is None else run.error for run in answer.runs]
        feed, dtype, mapped = feeds[int(np.argmax(errors))], source.recipe.dtype, not source.fits_in_memory
        return find_first_difference(files[0], runnable, feed, dtype, files[1], mapped=mapped)
