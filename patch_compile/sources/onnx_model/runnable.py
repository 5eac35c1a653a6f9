"""The form of an ONNX file that ONNX Runtime's CPU provider runs."""

from __future__ import annotations

from pathlib import Path

import onnx_ir as ir

from patch_compile.onnx_io.emulate_bfloat16 import EmulateBfloat16Pass
from patch_compile.onnx_io.external import map_external_data
from patch_compile.onnx_io.proto import load_proto
from patch_compile.onnx_io.write import write_onnx

__all__ = ["runnable"]


def runnable(path: Path, scratch: Path) -> Path:
    """The file, or where it holds bf16, for which there are few kernels, a copy in `scratch` that rounds as bf16 does."""
    model = ir.from_proto(load_proto(path))
    values = (value for node in model.graph for value in (*node.inputs, *node.outputs))
    if not any(value is not None and value.dtype == ir.DataType.BFLOAT16 for value in values):
        return path
    map_external_data(path, model)
    emulated = scratch / f"emulated-{path.parent.name}-{path.name}"
    write_onnx(EmulateBfloat16Pass()(model).model, emulated)
    return emulated
