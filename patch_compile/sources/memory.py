"""Memory that a whole model takes when it runs, and whether this machine has it."""

from __future__ import annotations

# Bytes per weight at the peak, without packed weights: transformers holds 16-bit weights while it converts them to fp32,
# and ONNX Runtime while it packs them for its products.
_PEAK_BYTES = 6
_REST = 1 << 30  # bytes for the libraries, activations and logits


def bytes_to_run(weights: int) -> int:
    """Returns the bytes that ONNX Runtime, or transformers in fp32, takes at its peak for a model of so many weights."""
    return _PEAK_BYTES * weights + _REST


def free_bytes() -> int:
    """Returns the bytes that this process can still allocate on the host."""
    import torch

    from masklearn.base.device import available_memory

    return available_memory(torch.device("cpu"))
