"""`patch-compile debug reduce`."""

from __future__ import annotations

from typing import Any

import patch_compile.api.reduce_linear as api
from patch_compile.cli.command import AS_JSON, command, print_result

__all__ = ["reduce_linear"]


@command(api.reduce_linear, name="debug reduce", summary="Write one linear of OUT as a model of its own.")
@AS_JSON
def reduce_linear(as_json: bool, **given: Any) -> None:
    """Write one linear of OUT as an ONNX model of its own, with its weights, and with the inputs that it had.

    hybrid.onnx is the linear as it was compiled, with the other linears of its node; dense.onnx has ordinary products with
    the same zeros. inputs.npz and outputs.npz were recorded in a run of the build's ONNX file on inputs of the proof. The
    error of this linear is printed, and a command that runs hybrid.onnx.
    """
    print_result(api.reduce_linear(**given), as_json=as_json)
