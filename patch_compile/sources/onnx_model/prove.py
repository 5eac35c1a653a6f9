"""The proof of a build from an ONNX file: compiled right, and pruned how much."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from patch_compile.errors import AccuracyError
from patch_compile.onnx_io.compare import Answers, Difference, answer, compare_answers
from patch_compile.onnx_io.proto import load_proto
from patch_compile.onnx_io.runnable import runnable_onnx
from patch_compile.sources.onnx_model.find import find_onnx_linears
from patch_compile.sources.onnx_model.read import read_onnx
from patch_compile.sources.onnx_model.rounding import RoundLinearsPass
from patch_compile.sources.onnx_model.widen import WidenPass

if TYPE_CHECKING:
    import onnx_ir as ir

    from patch_compile.progress import Progress
    from patch_compile.sources.onnx_model.source import OnnxJob

__all__ = ["compare_onnx", "prove_onnx"]

_RUNS = 8  # of the calibration inputs, at most
_UNIT_ROUNDOFF = {"float16": 2.0**-11, "bfloat16": 2.0**-8}
_ROUNDINGS = 3  # of a PatchLinear between Casts: X, b and Y
_DEVIATIONS = 3.0
# By whether the model is fp32 but for its PatchLinears.
_MEASURED = {
    True: "what rounding X and Y of the same linears does to the pruned model",
    False: "twice what computing in 16 bits instead of fp32 does to the pruned model",
}


@dataclass(frozen=True)
class _Tolerance:
    error: float
    why: str


def prove_onnx(
    job: OnnxJob, hybrid: Path, pruned: Path, packed: list[str], scratch: Path, progress: Progress
) -> dict[str, Any]:
    """`compare_onnx`; raises AccuracyError when the hybrid differs from the pruned model by more than rounding explains."""
    proof, fault = compare_onnx(job, hybrid, pruned, packed, scratch, progress)
    if fault:
        raise fault
    return proof


def compare_onnx(
    job: OnnxJob, hybrid: Path, pruned: Path, packed: list[str], scratch: Path, progress: Progress
) -> tuple[dict[str, Any], AccuracyError | None]:
    """Run the file itself, the pruned and the hybrid model on the same inputs: the parts of report.json that compare them,
    and what is wrong with the hybrid where it was not compiled right.

    packed: names of the linears that are no longer what they were.
    """
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    feeds = job.feeds[:_RUNS]
    answers: dict[str, Answers] = {}
    for name, path in (("original", job.recipe.model), ("pruned", pruned), ("hybrid", hybrid)):
        with progress.stage(f"{name} on ONNX Runtime"):
            answers[name] = answer(runnable_onnx(path, scratch), feeds, scratch / name)
    with progress.stage("rounding"):
        tolerance = _tolerance(job, pruned, hybrid, packed, answers["pruned"], scratch)
    compiled = compare_answers(answers["hybrid"], answers["pruned"])
    lost = compare_answers(answers["hybrid"], answers["original"])
    shutil.rmtree(scratch)
    # Outputs that are no floating-point numbers, such as an argmax, may flip by any rounding.
    judged = [one for one in compiled if one.floating]
    worst = max(judged, key=lambda one: one.largest, default=None)
    error = worst.largest if worst else 0.0
    proof = {
        "inputs": {"words": job.feeds.words, "compared": len(feeds)},
        "agreement": {"error": error, "tolerance": tolerance.error, "why": tolerance.why},
        "difference": {"outputs": [vars(one) for one in lost], "relative": max(one.relative for one in lost)},
    }
    return proof, _fault(job.recipe.dtype, worst, tolerance)


def _fault(dtype: str, worst: Difference | None, tolerance: _Tolerance) -> AccuracyError | None:
    if worst is None or worst.largest <= tolerance.error:
        return None
    if not np.isfinite(worst.largest):
        return AccuracyError(
            f"{worst.output!r} of the hybrid is not finite where that of the pruned model is",
            f"an input or output of a linear exceeds what {dtype} holds",
            "choose bf16 (--dtype bfloat16), or leave the linear dense with --exclude",
        )
    return AccuracyError(
        f"{worst.output!r} of the hybrid differs from that of the pruned model by {worst.largest:.2e} of its largest value",
        f"rounding explains {tolerance.error:.2e}: {tolerance.why}",
        "this is a fault of the compiler: please report it with the ONNX file and the recipe",
    )


def _tolerance(
    job: OnnxJob, pruned: Path, hybrid: Path, packed: list[str], reference: Answers, scratch: Path
) -> _Tolerance:
    """What n roundings add up to (see `verify.agreement`), or what rounding does to the pruned model where that is more.

    A graph may amplify roundings in any measure. Where PatchLinear stands between Casts, that is seen by rounding X and Y
    of the same linears in the pruned model, which is fp32; a model of 16-bit types is set beside itself in fp32, from which
    hybrid and pruned model may lie apart as far, in different directions.
    """
    import onnx_ir as ir

    roundoff = _UNIT_ROUNDOFF[job.recipe.dtype]
    model = read_onnx(pruned)
    found, dtype = find_onnx_linears(pruned, model).linears, ir.DataType[job.recipe.dtype.upper()]
    cast = {name: found[name] for name in packed if found[name].dtype == ir.DataType.FLOAT}
    in_fp32 = len(cast) == len(packed)
    roundings = _ROUNDINGS * len(cast) if in_fp32 else _sixteen_bit_results(hybrid)
    derived = float(_DEVIATIONS * roundoff * np.sqrt(roundings))
    changed = RoundLinearsPass(cast, dtype) if in_fp32 else WidenPass()
    measured = _measured(changed(model).model, job, reference, scratch) * (1 if in_fp32 else 2)
    if measured > derived:
        return _Tolerance(measured, _MEASURED[in_fp32])
    why = f"{_DEVIATIONS:g}·u·√n, u = {roundoff:.2e} for {job.recipe.dtype}, n = {roundings} roundings"
    return _Tolerance(derived, why)


def _sixteen_bit_results(path: Path) -> int:
    import onnx_ir as ir

    sixteen = (ir.DataType.FLOAT16, ir.DataType.BFLOAT16)
    graph = ir.from_proto(load_proto(path)).graph
    return sum(any(value.dtype in sixteen for value in node.outputs) for node in graph)


def _measured(model: ir.Model, job: OnnxJob, reference: Answers, scratch: Path) -> float:
    """How far a changed form of the pruned model lies from it, 0 where a value is no longer finite."""
    from patch_compile.onnx_io.write import write_onnx

    changed = scratch / "changed.onnx"
    write_onnx(model, changed)
    answers = answer(runnable_onnx(changed, scratch), job.feeds[:_RUNS], scratch / "changed")
    differences = [one.largest for one in compare_answers(answers, reference) if one.floating]
    return max((error for error in differences if np.isfinite(error)), default=0.0)
