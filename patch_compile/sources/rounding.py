"""Derives how far rounding to 16 bits may move the outputs of a model. Compiled models must keep this tolerance."""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt

from patch_compile.artifacts.proof import Tolerance, ToleranceOrigin

UNIT_ROUNDOFF = {"float16": 2.0**-11, "bfloat16": 2.0**-8}
DEVIATIONS = 3.0
# Number of roundings to 16 bits that one block adds to the residual stream, counted in the graph: norm, q, k, v, rotary,
# attention, o, add; norm, gate, up, SiLU, product, down, add. A PatchLinear with an epilogue rounds once for its part.
_PER_BLOCK = 15


@dataclass(frozen=True)
class Rounding:
    """Roundings to 16 bits on the way to the outputs of a graph.

    count: number of roundings; layers: number of layers with roundings, None if they were counted in the graph; measured:
    error that such roundings caused in the pruned model, 0 if it was not measured: as a share of the largest value, or with
    `by_norm` ‖difference‖₂ / ‖value‖₂; by: the kind of measurement.
    """

    count: int
    layers: int | None = None
    measured: float = 0.0
    by: ToleranceOrigin = ToleranceOrigin.ROUNDINGS
    by_norm: bool = False


def roundings_of(blocks: int) -> Rounding:
    """Returns the roundings in the graph of a transformer with this number of blocks."""
    return Rounding(_PER_BLOCK * blocks + 2, blocks)  # two for the last norm and the head


def tolerance_of(dtype: str, rounding: Rounding) -> Tolerance:
    """Returns the allowed error of an output.

    Each of n roundings moves the result by at most the unit roundoff u of the type, in a random direction. Together they
    move it by about u·√n (Higham & Mary 2019, probabilistic rounding error analysis). The largest of many logits lies up
    to three deviations out. Measured: 1.3·u·√n for random models of 2 layers, 0.4·u·√n for SmolLM2. For a graph that
    amplifies roundings the measured error is allowed instead, if it is larger.
    """
    derived = DEVIATIONS * UNIT_ROUNDOFF[dtype] * sqrt(rounding.count)
    measured = rounding.measured > derived
    return Tolerance(
        share=rounding.measured if measured else derived,
        origin=rounding.by if measured else ToleranceOrigin.ROUNDINGS,
        dtype=dtype,
        roundings=rounding.count,
        layers=rounding.layers,
        by_norm=rounding.by_norm,
    )


def rounding_tolerance(dtype: str, blocks: int) -> Tolerance:
    """Returns `tolerance_of` a transformer with this number of blocks."""
    return tolerance_of(dtype, roundings_of(blocks))
