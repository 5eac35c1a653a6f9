"""Refuses a model that does not fit into memory as a whole, before any work is done."""

from __future__ import annotations

import psutil

from patch_compile.errors import PatchCompileError

__all__ = ["check_memory"]

# Bytes per weight at the peak: transformers holds 16-bit weights while it converts them to fp32, and ONNX Runtime holds
# its folded constants beside those of the file.
_BYTES = 6
_REST = 1 << 30  # bytes for the libraries, activations and logits


def check_memory(weights: int) -> None:
    """Raise PatchCompileError unless ONNX Runtime and transformers can each hold this number of weights on this
    machine."""
    needed, free = _BYTES * weights + _REST, psutil.virtual_memory().available
    if needed > free:
        raise PatchCompileError(
            "The model does not fit into memory to be run as a whole",
            f"That takes some {needed / 1e9:.0f} GB, and {free / 1e9:.0f} GB are free.",
            "Verify without it, block by block, with --only pruned,where; or on a machine with more memory.",
        )
