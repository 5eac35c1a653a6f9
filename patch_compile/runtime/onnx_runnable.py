"""Opens the ONNX file of a build with ONNX Runtime; a bfloat16 file as a float32 copy that rounds like bfloat16."""

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
    """Returns the decoder of an ONNX file and a note for the user, empty for most files.

    ONNX Runtime has no bfloat16 kernels. A bfloat16 file runs as a float32 copy that rounds like bfloat16. The copy is
    written to the folder of temporary files and deleted once it is loaded.

    Raises PatchCompileError when the file can't be run, or when the copy can't be made for want of space or of onnx-ir.
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
