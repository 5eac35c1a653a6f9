"""Assumptions of the roofline."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


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
