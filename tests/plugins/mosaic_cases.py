"""Random PatchLinear problems, their float64 answer, and the error that a kernel may make."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from tests.oracles.element_packing import OfSixteen, Packed, pack_gated, pack_slabs, prune
from tests.oracles.fp32_sums import fp32_sum_error
from tests.oracles.int8_products import product
from tests.oracles.integer_packing import INT8, W8A8, pack_gated_integers, pack_integers, quantise

DTYPES = (np.dtype(np.float16), np.dtype(ml_dtypes.bfloat16))
_MANTISSA = {DTYPES[0]: 11, DTYPES[1]: 8}  # significand bits
_SMALLEST = {DTYPES[0]: 2.0**-24, DTYPES[1]: 2.0**-133}  # spacing of the subnormals


_erf = np.vectorize(math.erf, otypes=[np.float64])
_SQRT_2_OVER_PI = math.sqrt(2 / math.pi)


def _sigmoid(z: NDArray[np.float64]) -> NDArray[np.float64]:
    return 1 / (1 + np.exp(-z))


# In the order of `Activation` in plugins/kernels/arguments.h.
ACTIVATIONS = {
    "": lambda z: z,
    "gelu": lambda z: 0.5 * z * (1 + _erf(z / math.sqrt(2))),
    "gelu_tanh": lambda z: 0.5 * z * (1 + np.tanh(_SQRT_2_OVER_PI * (z + 0.044715 * z**3))),
    "silu": lambda z: z * _sigmoid(z),
}
_STEEPEST = 1.13  # the largest slope of any of them
# The kernels use ex2 and rcp to 2^-22, an erf to 1.5e-7, and arguments of a few dozen in fp32.
_ACTIVATION_ERROR = 2.0**-18


@dataclass(frozen=True)
class Case:
    """One problem. `x`, `bias` and `residual` are bits; activation: index into ACTIVATIONS.

    bits: of Y, if each operation of a kernel is rounded in one way only.
    """

    packed: Packed
    x: NDArray[np.uint16]
    bias: NDArray[np.uint16] | None
    expected: NDArray[np.float64]  # [tokens, out]
    slack: NDArray[np.float64]  # [tokens, out], largest error of fp32 arithmetic before the result is rounded
    dtype: np.dtype
    residual: NDArray[np.uint16] | None = None
    activation: int = 0
    bits: NDArray[np.uint16] | None = None

    def worst(self, y: NDArray[np.uint16]) -> float:
        """Largest error in units of the allowed error; a NaN is infinitely wrong.

        The slack and one rounding to the output type are allowed.
        """
        got = y.view(self.dtype).astype(np.float64)
        rounding = np.abs(self.expected) * 2.0 ** -_MANTISSA[self.dtype] + _SMALLEST[self.dtype]
        error = np.abs(got - self.expected) / (self.slack * (1 + 2.0**-7) + rounding)
        return float(np.nan_to_num(error, nan=np.inf).max(initial=0))

    @property
    def epilogue(self) -> dict[str, Any]:
        """Arguments of `HostKernel.run` and `PtxKernel.run` besides the packed weight, X and bias."""
        return {"residual": self.residual, "activation": self.activation}


def without_panels(case: Case, keep: NDArray[np.bool_]) -> Case:
    """Zero the weights of all rows outside `keep` `[out]`, which holds whole panels, and drop their slabs.

    The case must be a plain product, without gate, activation or residual.
    """
    assert not case.packed.gated and not case.activation and case.residual is None
    rows, packed = case.packed.panel_rows, case.packed
    panels = keep[::rows]
    stored = sum(packed.counts)
    pointers = packed.index[: len(packed.index) - stored].reshape(len(packed.kinds), -1)
    counts = [packed.counts[kind] for kind in packed.kinds]
    columns = np.split(packed.index[len(packed.index) - stored :], np.cumsum(counts[:-1]))
    parts, places, left = [], [], {}
    for kind, pointer, column in zip(packed.kinds, pointers, columns, strict=True):
        own = np.diff(pointer)
        kept = np.repeat(panels, own)
        parts.append(np.concatenate([[0], np.cumsum(own * panels)]).astype(np.int32))
        places.append(column[kept])
        left[kind] = [None if tensor is None else tensor[kept] for tensor in packed.tensors[kind]]
    emptied = Packed(
        packed.shape, rows, left[0][0], *left[1], np.concatenate([*parts, *places]),
        others=tuple(OfSixteen(kind, *left[kind]) for kind in packed.kinds[2:]),
        weights=packed.weights, scales=packed.scales,
    )  # fmt: skip
    bias = np.zeros(len(keep)) if case.bias is None else case.bias.view(case.dtype).astype(np.float64)
    return replace(
        case,
        packed=emptied,
        expected=np.where(keep, case.expected, bias),
        slack=np.where(keep, case.slack, 2.0**-24 * np.abs(bias)),
        bits=None if case.bits is None or case.bias is None else np.where(keep, case.bits, case.bias),
    )


def make_case(
    tokens: int,
    shape: tuple[int, int],
    panel_rows: int,
    *,
    dtype: np.dtype = DTYPES[0],
    share: float = 0.5,
    bias: bool = True,
    gated: bool = False,
    activation: str = "",
    residual: bool = False,
    rounded: bool = False,
    kinds: int = 2,
    only: int = 0,
    integers: int = 0,
    unpacked: bool = False,
    seed: int = 0,
) -> Case:
    """A case of random slabs, `share` of them pruned. Values have both signs, and zeros are among them.

    kinds: how many kinds of their type the slabs have; only: number of the kind that all pruned slabs have, 0 for any.

    integers: number of the type that the weights are rounded to, 0 for none; unpacked: weights of int8 are rounded to the
    type of X before they are multiplied.

    rounded: X Wᵀ may be rounded to the output type before the rest is computed.
    """
    rng, pruning = (np.random.default_rng([seed, number]) for number in range(2))  # X is that of any share
    rows, columns = shape
    weights, biases, quantised = [], [], []
    panel_of_row = np.arange(rows) // 8 * 16 // panel_rows if gated else np.arange(rows) // panel_rows
    grid = (int(panel_of_row[-1]) + 1, -(-columns // 64))
    codes = np.where(rng.random(grid) < share, only or rng.integers(1, kinds, grid), 0)
    for _ in range(1 + gated):
        weight = rng.standard_normal(shape, np.float32) / 8
        weight[rng.random(shape) < 0.05] = -0.0
        padded = np.pad(weight, ((0, 0), (0, -columns % 64)))
        inside = np.repeat(codes[panel_of_row], 64, 1)[:, :columns]
        for kind in range(1, kinds):
            if (codes == kind).any():
                weight = np.where(inside == kind, prune(padded, kind, pruning, integers)[:, :columns], weight)
        if integers:
            quantised.append(quantise(weight, integers, rng))
            products = quantised[-1].products()
            exact = integers == INT8 and not unpacked
            weights.append(products if exact else products.astype(np.float32).astype(dtype))
        else:
            weights.append(weight.astype(dtype))
        biases.append(rng.standard_normal(rows, np.float32).astype(dtype))
    x = rng.standard_normal((tokens, columns), np.float32).astype(dtype)
    added = rng.standard_normal((tokens, rows), np.float32).astype(dtype) if residual else None
    number = list(ACTIVATIONS).index(activation)
    if integers and gated:
        packed = pack_gated_integers(quantised, codes, dtype, panel_rows)
    elif integers:
        packed = pack_integers(quantised[0], codes, dtype, panel_rows)
    else:
        bits = np.stack(weights).view(np.uint16)
        packed = pack_gated(bits, codes, panel_rows) if gated else pack_slabs(bits[0], codes, panel_rows)
    if integers == W8A8:
        sums = [product(x, one.integers, one.scales) for one in quantised]
        expected, slack, exact = answer_of_integers(sums, biases if bias else None, activation, added, dtype)
    else:
        expected, slack = answer(x, weights, biases if bias else None, activation, added, rounded)
        exact = None
    return Case(
        packed,
        x.view(np.uint16),
        np.concatenate(biases).view(np.uint16) if bias else None,
        expected,
        slack,
        dtype,
        None if added is None else added.view(np.uint16),
        number,
        exact,
    )


def answer(
    x: NDArray[Any],
    weights: list[NDArray[Any]],
    biases: list[NDArray[Any]] | None,
    activation: str,
    residual: NDArray[Any] | None,
    rounded: bool,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Y in float64, and the first-order error bound of fp32."""
    x64 = x.astype(np.float64)
    sums, errors = [], []
    for i, weight in enumerate(weights):
        w64 = weight.astype(np.float64)
        b64 = np.zeros(len(weight)) if biases is None else biases[i].astype(np.float64)
        sums.append(x64 @ w64.T + b64)
        errors.append(fp32_sum_error(x.shape[1]) * (np.abs(x64) @ np.abs(w64).T + np.abs(b64)))
        if weight.dtype == np.float64:  # sums of integers, times scales
            errors[-1] += 2.0**-24 * np.abs(x64 @ w64.T)
        if rounded:
            errors[-1] += 2.0 ** -_MANTISSA[x.dtype] * np.abs(x64 @ w64.T) + _SMALLEST[x.dtype]
    return _finished(sums, errors, activation, residual)


def answer_of_integers(
    products: list[NDArray[np.float32]],
    biases: list[NDArray[Any]] | None,
    activation: str,
    residual: NDArray[Any] | None,
    dtype: np.dtype,
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.uint16] | None]:
    """Y in float64, the error bound of fp32, and the bits of Y; products: X Wᵀ of w8a8, which has one right value.

    There are no bits if an activation is approximated, or if a product and a sum may be one operation.
    """
    z = [
        own if biases is None else own + bias.astype(np.float32)
        for own, bias in zip(products, biases or products, strict=True)
    ]
    sums = [own.astype(np.float64) for own in z]
    expected, slack = _finished(sums, [np.zeros_like(own) for own in sums], activation, residual)
    if activation or (len(z) == 2 and residual is not None):
        return expected, slack, None
    y = z[0] * z[1] if len(z) == 2 else z[0]
    y = y if residual is None else y + residual.astype(np.float32)
    return expected, slack, y.astype(dtype).view(np.uint16)


def _finished(
    sums: list[NDArray[np.float64]],
    errors: list[NDArray[np.float64]],
    activation: str,
    residual: NDArray[Any] | None,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Y of Z, and its error bound of that of Z."""
    y, slack = ACTIVATIONS[activation](sums[0]), errors[0]
    if activation:
        slack = _STEEPEST * slack + _ACTIVATION_ERROR * np.abs(sums[0])
    if len(sums) == 2:
        slack = np.abs(sums[1]) * slack + (np.abs(y) + slack) * errors[1] + 2.0**-24 * np.abs(y * sums[1])
        y = y * sums[1]
    if residual is not None:
        y = y + residual.astype(np.float64)
        slack = slack + 2.0**-24 * np.abs(y)
    return y, slack
