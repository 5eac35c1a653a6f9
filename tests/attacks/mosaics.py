"""Random mosaics, from packing through the ONNX function's body to the kernels on the host."""

from __future__ import annotations

from tests.attacks.attack import Attack
from tests.attacks.fuzz.mosaic import faults, host_kernels

_SMALL, _FULL = 10, 3000


def run(small: bool) -> list[Attack]:
    """Compute the problems of seeds that the tests do not take."""
    kernels, count = host_kernels(), _SMALL if small else _FULL
    wrong = [
        " | ".join(found) for seed in range(1000, 1000 + count) if (found := list(faults(seed, kernels)))
    ]
    return [Attack.of("random mosaics, packed and computed", count, wrong)]
