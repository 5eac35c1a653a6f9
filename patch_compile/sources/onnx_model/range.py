"""Finds out, by one run of an ONNX file, if float16 holds what its linears read and write."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import numpy as np
import onnx_ir as ir

from patch_compile.errors import PatchCompileError
from patch_compile.onnx_io.own_process import run_in_turns
from patch_compile.onnx_io.runnable import runnable_onnx
from patch_compile.sources.onnx_model.facts import OnnxFacts
from patch_compile.sources.onnx_model.moments import write_probe

__all__ = ["check_float16"]

_TOGETHER = 16  # tensors in memory


def check_float16(facts: OnnxFacts, names: Collection[str], scratch: Path) -> None:
    """Raise PatchCompileError if an fp32 linear has an input or output, on the first of the file's inputs, that float16
    does not hold. Values that fp32 does not hold either are no matter of float16.

    names: the linears that may be compiled to float16; scratch: an existing folder for a copy of the model.
    """
    from masklearn import LARGEST, OVERFLOWS

    model, linears = facts.read(facts.recipe.model)
    wide = {name: linears[name] for name in names if linears[name].dtype == ir.DataType.FLOAT}
    if facts.dtype != ir.DataType.FLOAT16 or not wide:
        return
    probe = scratch / "range.onnx"
    write_probe(model, wide, probe, with_outputs=True)
    places = {
        str(value.name): (what, name)
        for name, linear in reversed(wide.items())  # an input of several linears is called that of the first
        for what, value in (("input", linear.x), ("output", linear.output))
    }
    ordered = [str(value.name) for linear in wide.values() for value in (linear.x, linear.output)]
    tensors = list(dict.fromkeys(ordered))
    turns = [tensors[start : start + _TOGETHER] for start in range(0, len(tensors), _TOGETHER)]
    for found in run_in_turns(runnable_onnx(probe, scratch), facts.feeds[0], turns):
        for tensor, values in found.items():
            largest = float(np.abs(values[np.isfinite(values)]).max(initial=0.0))
            if largest >= OVERFLOWS:
                what, linear = places[tensor]
                raise PatchCompileError(
                    f"{facts.recipe.model.stem} does not compute in float16",
                    f"In the dense model the {what} of {linear} reaches {largest:.6g}, and float16 ends at {LARGEST}.",
                    f"Choose bf16 (--dtype bfloat16), or leave the linear dense with --exclude '{linear}'.",
                )
