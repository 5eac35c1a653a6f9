"""A build's ONNX file as ONNX Runtime can run it."""

from __future__ import annotations

import tempfile
from pathlib import Path

from patch_compile.errors import PatchCompileError
from patch_compile.onnx_io.proto import load_proto
from patch_compile.runtime.decoder import Limits
from patch_compile.runtime.onnx_decoder import OnnxDecoder

__all__ = ["open_onnx"]

_NOTE = "bfloat16, for which it has no kernels: computed in float32 and rounded after every operation"


def open_onnx(path: Path, limits: Limits) -> tuple[OnnxDecoder, str]:
    """The decoder of an ONNX file, and what is to be said about it, mostly nothing.

    Of a bf16 graph a copy that rounds as bf16 does is run, written to the folder of temporary files and removed when it
    is loaded. Raises PatchCompileError when the file can't be run, or there is no room or no onnx-ir for the copy.
    """
    if not _is_bfloat16(path):
        return OnnxDecoder(path, limits, gpu=True), ""
    try:
        with tempfile.TemporaryDirectory(prefix="patch-compile-") as folder:
            copy = Path(folder) / path.name
            _write_copy(path, copy)
            return OnnxDecoder(copy, limits, gpu=True), _NOTE
    except OSError as error:
        raise PatchCompileError(
            f"cannot write the copy of {path} that ONNX Runtime runs",
            f"{error.strerror or error}: {error.filename or tempfile.gettempdir()}",
            "name a folder with room for twice the file in TMPDIR",
        ) from None


def _write_copy(path: Path, copy: Path) -> None:
    try:
        import onnx_ir
    except ImportError as error:
        raise PatchCompileError(
            f"{path} is of bfloat16, which ONNX Runtime can't run as it is",
            f"the copy that it can is made with a package that is missing here: {error.name}",
            "pip install onnx-ir, build with --dtype float16, or run its engine on a GPU",
        ) from None
    del onnx_ir
    from patch_compile.onnx_io.emulate_bfloat16 import write_emulated

    write_emulated(path, copy)


def _is_bfloat16(path: Path) -> bool:
    import onnx

    inputs = load_proto(path).graph.input
    return any(given.type.tensor_type.elem_type == onnx.TensorProto.BFLOAT16 for given in inputs)
