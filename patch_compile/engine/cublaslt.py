"""Tells the plugin where a wheel put cuBLASLt, which multiplies prompts on Hopper (docs/adr/0011-hopper-prefill.md)."""

from __future__ import annotations

import os
import sys
from pathlib import Path

__all__ = ["VARIABLE", "name_cublaslt"]

VARIABLE = "PATCH_CUBLASLT"  # that the plugin reads; whoever has set it is right
# Where the nvidia-cublas wheels of CUDA 13 and 12 put it, from site-packages on.
_IN_WHEELS = ("nvidia/cu13/lib/libcublasLt.so.13", "nvidia/cublas/lib/libcublasLt.so.12")


def name_cublaslt() -> None:
    """Name the library of a wheel to the plugin, if there is one: no library path leads there. Nothing is loaded."""
    if os.environ.get(VARIABLE):
        return
    for name in _IN_WHEELS:
        for folder in filter(None, sys.path):
            if (Path(folder) / name).is_file():
                os.environ[VARIABLE] = str(Path(folder) / name)
                return
