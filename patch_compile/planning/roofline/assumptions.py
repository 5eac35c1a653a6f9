"""Assumptions of the roofline, and how far published speed-ups lie from its predictions."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from masklearn.quant.table import WeightType


def _assumed(value: Any, what: str) -> Any:
    return field(default=value, metadata={"what": what})


@dataclass(frozen=True)
class Assumptions:
    """Values that no data sheet gives. They hold for hybrid and dense GEMMs unless `what` says otherwise."""

    bandwidth: float = _assumed(0.84, "share of DRAM bandwidth, and of L2's, that a GEMM reaches")
    tensor: float = _assumed(1.0, "tensor rate over that which cuBLAS reaches by the table of cards")
    units: float = _assumed(0.85, "share of the rates of shared memory and issue slots")
    hybrid: float = _assumed(1.0, "of these shares, what the hybrid kernels reach")
    turn: float = _assumed(1.0, "clocks of a slab in the kernels' loop over the simulated ones")
    clock: float = _assumed(1.0, "sustained clock over boost clock")
    launch: float = _assumed(1.0, "µs between kernels of a CUDA graph")
    # doi 10.1016/j.ultsonch.2023.106546, table 3, has 400 for A100 and H100.
    dram_latency: float = _assumed(500, "clocks to DRAM when it is idle")
    # arXiv 2606.22588 finds 222 to 339 on an L40.
    l2_latency: float = _assumed(280, "clocks to L2")
    loaded: float = _assumed(3.0, "DRAM latency under full load, over the idle one")
    l2_rate: float = _assumed(1.0, "L2's bandwidth over that in the table of cards")
    l2_kept: float = _assumed(0.5, "share of L2 that holds what is read a second time")
    sparse: float = _assumed(1.0, "rate of 2:4 GEMMs over the rate in the table of cards")
    attention: float = _assumed(1.0, "of a GEMM's shares, what attention reaches")
    # Fitted (`benchmarks/published/whole_models.py`) to gpt-fast's step of LLaMA-2-7B in fp16 at batch 1 on an A100.
    other_kernel: float = _assumed(
        8.3, "µs that a kernel which is no linear takes beyond its launch and bytes"
    )
    gating: bool = _assumed(
        False,
        "what the node of a gate and its up saves by doing SiLU·mul itself is counted: it is no gain of 2:4",
    )


ASSUMED = Assumptions()

# How far published speed-ups over dense 16-bit products lie from predicted ones, which gives the interval of a prediction.
# `python -m benchmarks.published --errors` computes both tables; a test compares them. The speed-ups are of NVIDIA's
# libraries, on shapes that no figure was fitted to and with the shares that are assumed for a card that nobody measured, and
# of whole models. Our own kernels have not run on any card: they are assumed to be no nearer to their predictions than
# the libraries are.
MOST_TOKENS = (256, 2048, None)  # of a product, by range; None: any number
# By bits of the activations, then by range: p10 and p90 of measured over predicted speed-up over a dense 16-bit product: of
# 2:4 products, and with 8 bits of dense int8 products too.
PRODUCTS: dict[int, dict[int | None, tuple[float, float]]] = {
    16: {256: (0.73, 1.43), 2048: (0.8, 1.22), None: (0.93, 1.04)},
    8: {2048: (0.76, 1.16), None: (0.86, 1.16)},
}
# By bits of the weights: least and largest measured over predicted speed-up of whole models in decode at batch 1. The
# largest is that of dense 16-bit products of up to 16 tokens.
FEW_TOKENS = {8: (0.88, 1.03), 4: (0.76, 1.03)}
_FEW = 16  # tokens up to which the bytes of the weights decide


def speedup_errors(tokens: int, weights: WeightType) -> tuple[float, float]:
    """Returns the ends of measured over predicted speed-up over a dense 16-bit product of so many tokens.

    For few tokens, 2:4 tiles of 16 bits and w8a8 have the errors of int8 weights, as all of these read fewer bytes. 16-bit
    products stand for int8 products that were not measured.
    """
    if tokens <= _FEW or (weights.widened and tokens <= MOST_TOKENS[0]):
        return FEW_TOKENS[min(8, weights.bits)]
    most = next(most for most in MOST_TOKENS if most is None or tokens <= most)
    return PRODUCTS[weights.input_bits].get(most, PRODUCTS[16][most])
