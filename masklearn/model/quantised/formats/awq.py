"""Reads weights that AWQ quantised, in the layout `gemm` of AutoAWQ.

A weight [N, K] of a module `X` is stored as `X.qweight` int32 [K, N/8], `X.scales` [groups, N] and `X.qzeros` int32
[groups, N/8]. A word holds eight neighbours along N in the order 0, 2, 4, 6, 1, 3, 5, 7, the lowest bits first. A value is
(stored − zero point)·scale. Without zero points (`zero_point` false) it is 8 everywhere. See awq/modules/linear/gemm.py in
https://github.com/casper-hansen/AutoAWQ.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from masklearn.model.quantised.base import (
    QUANTISATIONS,
    SCALES,
    FormatSettings,
    GroupSize,
    PackedWeight,
    Quantisation,
    StoredTensors,
    check_said_groups,
    dense_dtype,
    nibbles,
    refused,
    signed,
)

_BITS: Literal[4] = 4
_ZERO = 8
_IN_WORD = (0, 4, 1, 5, 2, 6, 3, 7)  # nibble of each of eight neighbours


class _Settings(FormatSettings):
    bits: Literal[4] = _BITS
    group_size: GroupSize = 128
    zero_point: bool = True
    version: Literal["gemm", "GEMM"] = "gemm"


@QUANTISATIONS.register
class Awq(Quantisation):
    """AWQ of 4 bits. The tensors tell which weights are quantised."""

    name = "awq"
    summary = "layout gemm, 4 bits"
    parsed_as = _Settings

    def weights(self, stored: StoredTensors, settings: Any, dtype: str) -> Sequence[PackedWeight]:
        """Find the weights by their `qweight`."""
        return [_weight(stored, module, settings, dtype) for module in stored.modules("qweight")]


def _weight(stored: StoredTensors, module: str, settings: _Settings, dtype: str) -> PackedWeight:
    name, zeros = f"{module}.scales", f"{module}.qzeros"
    k, words = stored.need(f"{module}.qweight", ("I32",), (None, None)).shape
    n = 8 * words
    scales = stored.need(name, SCALES, (None, n))
    groups = scales.shape[0]
    check_said_groups(stored.folder, name, (n, k), _BITS, groups, settings.group_size)
    if zeros in stored or settings.zero_point:
        stored.need(zeros, ("I32",), (groups, words))
    parts = (f"{module}.qweight", name, *((zeros,) if zeros in stored else ()))
    return PackedWeight(
        folder=stored.folder,
        name=f"{module}.weight",
        shape=(n, k),
        dtype=dense_dtype(scales.dtype, dtype),
        bits=_BITS,
        parts=parts,
        file=stored.file_of(parts[0]),
        integers=partial(_integers, stored, parts[0]),
        scales=partial(_scales, stored, module, symmetric=not settings.zero_point),
        zeros=partial(_integers, stored, zeros) if settings.zero_point else None,
    )


def _integers(stored: StoredTensors, name: str) -> NDArray[np.int8]:
    """Returns the integers [N, K] of `X.qweight`, or the zero points [N, groups] of `X.qzeros`; both are stored plus 8."""
    words = stored.read(name)
    rows = nibbles(words)[..., _IN_WORD].reshape(words.shape[0], -1)
    return signed(np.ascontiguousarray(rows.T), _BITS)


def _scales(stored: StoredTensors, module: str, *, symmetric: bool) -> NDArray[np.float32]:
    zeros = f"{module}.qzeros"
    if symmetric and zeros in stored and _integers(stored, zeros).any():
        raise refused(
            stored.folder, zeros, f"A zero point is not {_ZERO}, though config.json says that there are none."
        )
    return np.ascontiguousarray(stored.scales(f"{module}.scales").T)
