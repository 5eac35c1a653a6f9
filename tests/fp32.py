"""Lets tests compute in fp32 also where the CPU has units for bf16, because their results then depend less on the CPU."""

from collections.abc import Callable

import torch

UNITS = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")


def compute_in_fp32(change: Callable[..., object] = setattr) -> None:
    """Hide the CPU's units for bf16. change: `setattr`, or a monkeypatch's."""
    for name in UNITS:
        change(torch.cpu, name, lambda: False)
