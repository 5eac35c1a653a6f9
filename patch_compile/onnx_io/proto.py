"""Loads an ONNX file as a protobuf message, without its external data."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from patch_compile.errors import PatchCompileError

if TYPE_CHECKING:
    import onnx

__all__ = ["load_proto"]


def load_proto(path: Path) -> onnx.ModelProto:
    """Load a file without its external data. Raises PatchCompileError if it is no ONNX model."""
    import onnx

    try:
        proto = onnx.load(str(path), load_external_data=False)
    except OSError as error:
        raise PatchCompileError(
            f"{path} cannot be read", error.strerror or str(error), "Give an ONNX file."
        ) from None
    except Exception as error:  # protobuf's DecodeError shares no public base class with onnx's errors
        raise PatchCompileError(f"{path} is not an ONNX model", str(error), "Give an ONNX file.") from None
    if not proto.graph.node:
        raise PatchCompileError(f"{path} is not an ONNX model", "It holds no graph.", "Give an ONNX file.")
    if proto.graph.sparse_initializer:
        raise PatchCompileError(
            f"{path} holds sparse initializers",
            "Neither ONNX Runtime nor TensorRT multiplies by them.",
            "Store the weights densely.",
        )
    return proto
