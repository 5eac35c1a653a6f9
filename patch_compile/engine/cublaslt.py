"""Tells the plugin where cuBLASLt is if a wheel installed it.

The plugin multiplies prompts with cuBLASLt on Hopper: docs/explanation/decisions/0011-hopper-prefill.md.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

__all__ = ["VARIABLE", "name_cublaslt"]

VARIABLE = "PATCH_CUBLASLT"  # read by the plugin; a value that the user has set is kept
# Paths of the library in the nvidia-cublas wheels of CUDA 13 and 12, below site-packages.
_IN_WHEELS = ("nvidia/cu13/lib/libcublasLt.so.13", "nvidia/cublas/lib/libcublasLt.so.12")


def name_cublaslt() -> None:
    """Set `PATCH_CUBLASLT` to the library of an installed wheel, which is on no library search path. Loads nothing."""
    if os.environ.get(VARIABLE):
        return
    for name in _IN_WHEELS:
        for folder in filter(None, sys.path):
            if (Path(folder) / name).is_file():
                os.environ[VARIABLE] = str(Path(folder) / name)
                return
