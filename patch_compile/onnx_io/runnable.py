"""Makes an ONNX file runnable by ONNX Runtime on this machine.

ONNX Runtime has no bfloat16 kernels for MatMul, Attention or RMSNormalization on CPUs, and few on GPUs. A bfloat16 model
therefore runs as a float32 copy that rounds like bfloat16.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from patch_compile.onnx_io.proto import load_proto

if TYPE_CHECKING:
    import onnx


def holds_bfloat16(path: Path) -> bool:
    """True if an input, weight or result of the file's graph is bfloat16. Reads no weights."""
    return _is_bfloat16(load_proto(path))


def runnable_onnx(path: Path, scratch: Path) -> Path:
    """Returns the file itself, or a float32 copy in the folder `scratch` if the file holds bfloat16."""
    proto = load_proto(path)
    if not _is_bfloat16(proto):
        return path
    copy = scratch / f"runnable-{path.parent.name}-{path.name.lstrip('.')}"
    _write_emulated(proto, path, copy)
    return copy


def _is_bfloat16(proto: onnx.ModelProto) -> bool:
    import onnx

    graph, bfloat16 = proto.graph, onnx.TensorProto.BFLOAT16
    values = (*graph.input, *graph.output, *graph.value_info)
    return any(tensor.data_type == bfloat16 for tensor in graph.initializer) or any(
        value.type.tensor_type.elem_type == bfloat16 for value in values
    )


def _write_emulated(proto: onnx.ModelProto, path: Path, copy: Path) -> None:
    """Write the copy of the model that was read from `path`."""
    import onnx_ir as ir

    from patch_compile.onnx_io.emulate_bfloat16 import EmulateBfloat16Pass
    from patch_compile.onnx_io.external import map_external_data
    from patch_compile.onnx_io.write import write_onnx

    model = ir.from_proto(proto)
    map_external_data(path, model)  # files reused from an earlier build are hard links, which onnx-ir refuses
    write_onnx(EmulateBfloat16Pass()(model).model, copy)
