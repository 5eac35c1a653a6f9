"""Random PatchLinear problems, their float64 answer, and how far the kernel may be from it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from tests.plugins.oracle_packing import Packed, pack_slabs, prune_2_of_4

__all__ = ["DTYPES", "Case", "make_case", "without_panels"]

DTYPES = (np.dtype(np.float16), np.dtype(ml_dtypes.bfloat16))
_MANTISSA = {DTYPES[0]: 11, DTYPES[1]: 8}  # significand bits
_SMALLEST = {DTYPES[0]: 2.0**-24, DTYPES[1]: 2.0**-133}  # spacing of the subnormals


@dataclass(frozen=True)
class Case:
    """One problem; `x`, `bias` in bits."""

    packed: Packed
    x: NDArray[np.uint16]
    bias: NDArray[np.uint16] | None
    expected: NDArray[np.float64]  # [tokens, out]
    magnitude: NDArray[np.float64]  # |x| |W|^T + |bias|, what rounding errors are relative to
    dtype: np.dtype

    def worst(self, y: NDArray[np.uint16]) -> float:
        """Largest error in units of the allowed one; a NaN is infinitely wrong.

        fp32 sums of K exact products in any order: at most (K + 32) 2^-24 of the magnitude (Higham 2002, eq. 3.5; 32
        covers bias, splits and the tensor cores' truncation); then one rounding to the output type.
        """
        got = y.view(self.dtype).astype(np.float64)
        summation = (self.packed.shape[1] + 32) * 2.0**-24 * self.magnitude
        rounding = np.abs(self.expected) * 2.0 ** -_MANTISSA[self.dtype] + _SMALLEST[self.dtype]
        error = np.abs(got - self.expected) / (summation * (1 + 2.0**-8) + rounding)
        return float(np.nan_to_num(error, nan=np.inf).max(initial=0))


def without_panels(case: Case, keep: NDArray[np.bool_]) -> Case:
    """The same problem with all weights of other rows zero and their slabs dropped; keep: `[out]`, whole panels."""
    rows, packed = case.packed.panel_rows, case.packed
    panels = keep[::rows]
    dense_ptr, sparse_ptr = np.split(packed.index[: 2 * (len(panels) + 1)], 2)
    columns = np.split(packed.index[2 * (len(panels) + 1) :], [len(packed.dense)])
    parts, picked = [], []
    for pointer, column in zip((dense_ptr, sparse_ptr), columns, strict=True):
        counts = np.diff(pointer)
        kept = np.repeat(panels, counts)
        parts.append(np.concatenate([[0], np.cumsum(counts * panels)]).astype(np.int32))
        picked.append((kept, column[kept]))
    (dense, dense_columns), (sparse, sparse_columns) = picked
    emptied = Packed(
        packed.shape, rows, packed.dense[dense], packed.sparse[sparse], packed.meta[sparse],
        np.concatenate([*parts, dense_columns, sparse_columns]),
    )  # fmt: skip
    bias = np.zeros(len(keep)) if case.bias is None else case.bias.view(case.dtype).astype(np.float64)
    return replace(
        case,
        packed=emptied,
        expected=np.where(keep, case.expected, bias),
        magnitude=np.where(keep, case.magnitude, np.abs(bias)),
    )


def make_case(
    tokens: int,
    shape: tuple[int, int],
    panel_rows: int,
    *,
    dtype: np.dtype = DTYPES[0],
    share: float = 0.5,
    bias: bool = True,
    seed: int = 0,
) -> Case:
    """Random slabs, `share` of them 2:4. Values are of both signs and have zeros among them."""
    rng = np.random.default_rng(seed)
    rows, columns = shape
    sparse = rng.random((-(-rows // panel_rows), -(-columns // 64))) < share
    weight = rng.standard_normal(shape, np.float32) / 8
    weight[rng.random(shape) < 0.05] = -0.0
    inside = np.repeat(np.repeat(sparse, panel_rows, 0), 64, 1)[:rows, :columns]
    weight = np.where(inside, prune_2_of_4(weight, rng), weight).astype(dtype)
    x = rng.standard_normal((tokens, columns), np.float32).astype(dtype)
    b = rng.standard_normal(rows, np.float32).astype(dtype) if bias else None
    w64, x64 = weight.astype(np.float64), x.astype(np.float64)
    b64 = 0.0 if b is None else b.astype(np.float64)
    return Case(
        pack_slabs(weight.view(np.uint16), sparse, panel_rows),
        x.view(np.uint16),
        None if b is None else b.view(np.uint16),
        x64 @ w64.T + b64,
        np.abs(x64) @ np.abs(w64).T + np.abs(b64),
        dtype,
    )
