"""Writes the dense model of a build as an ONNX file that differs from the hybrid file only in its linears."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from masklearn.base.durable import temporary_name
from patch_compile.artifacts.folder import OutFolder
from patch_compile.artifacts.layout import ONNX_FOLDER, ONNX_NAME
from patch_compile.sources.open import source_of

__all__ = ["dense_onnx"]


@contextmanager
def dense_onnx(out: OutFolder, logits: Literal["all", "last"]) -> Iterator[Path]:
    """Yield a file in OUT, with the type and opset of the build, that is removed at the end.

    logits: the positions that get logits. Raises PatchCompileError if the model was moved or deleted.
    """
    folder = out.path / temporary_name(ONNX_FOLDER)
    folder.mkdir()
    try:
        yield source_of(out).dense_onnx(folder / ONNX_NAME, logits=logits)
    finally:
        shutil.rmtree(folder)
