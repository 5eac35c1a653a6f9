"""A build's ONNX file as ONNX Runtime can run it."""

from __future__ import annotations

import tempfile
from pathlib import Path

from patch_compile.errors import PatchCompileError
from patch_compile.onnx_io.runnable import holds_bfloat16, runnable_onnx
from patch_compile.runtime.decoder import Limits
from patch_compile.runtime.onnx_decoder import OnnxDecoder

__all__ = ["open_onnx"]

_NOTE = "bfloat16, for which it has no kernels: computed in float32 and rounded after every operation"


def open_onnx(path: Path, limits: Limits) -> tuple[OnnxDecoder, str]:
    """The decoder of an ONNX file, and what is to be said about it, mostly nothing.

    Of a bf16 graph a copy that rounds as bf16 does is run, written to the folder of temporary files and removed when it
    is loaded. Raises PatchCompileError when the file can't be run, or there is no room or no onnx-ir for the copy.
    """
    if not holds_bfloat16(path):
        return OnnxDecoder(path, limits, gpu=True), ""
    try:
        with tempfile.TemporaryDirectory(prefix="patch-compile-") as folder:
            return OnnxDecoder(runnable_onnx(path, Path(folder)), limits, gpu=True), _NOTE
    except OSError as error:
        raise PatchCompileError(
            f"The copy of {path} that ONNX Runtime runs cannot be written",
            f"{error.strerror or error}: {error.filename or tempfile.gettempdir()}",
            "Name a folder with room for twice the file in TMPDIR.",
        ) from None
