"""Reads weights that GPTQ quantised, in the layout of AutoGPTQ and GPTQModel.

A weight [N, K] of a module `X` is stored as `X.qweight` int32 [K·bits/32, N] (each word holds neighbours along K, the
lowest bits first), `X.scales` [groups, N], `X.qzeros` int32 [groups, N·bits/32] and `X.g_idx` int32 [K], the group of each
column. A value is (stored − zero point)·scale. Format 1 (`checkpoint_format` gptq, or none) stores zero points minus one,
format 2 (gptq_v2) as they are; symmetric weights have 2^(bits-1) everywhere. See `TorchLinear` in
https://github.com/ModelCloud/GPTQModel.
"""

from collections.abc import Sequence
from functools import partial
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from masklearn.model.quantised.base import (
    QUANTISATIONS,
    SCALES,
    FormatSettings,
    GroupSize,
    PackedWeight,
    Quantisation,
    StoredTensors,
    check_in_order,
    check_said_groups,
    dense_dtype,
    nibbles,
    refused,
    signed,
)

_BELOW = {"gptq": 1, "gptq_v2": 0}  # how much less than a zero point is stored


class _Settings(FormatSettings):
    bits: Literal[4, 8]
    group_size: GroupSize
    sym: Literal[True] = True
    checkpoint_format: Literal["gptq", "gptq_v2"] | None = None
    # Names of weights that are not quantised. Others would be quantised with settings of their own.
    dynamic: dict[Annotated[str, Field(pattern="^-:")], Any] | bool | None = None


@QUANTISATIONS.register
class Gptq(Quantisation):
    """GPTQ of 4 or 8 bits, symmetric. The tensors tell which weights are quantised."""

    name = "gptq"
    summary = "4 or 8 bits, symmetric, formats 1 and 2"
    parsed_as = _Settings

    def weights(self, stored: StoredTensors, settings: Any, dtype: str) -> Sequence[PackedWeight]:
        """Find the weights by their `qweight`."""
        return [_weight(stored, module, settings, dtype) for module in stored.modules("qweight")]


def _weight(stored: StoredTensors, module: str, settings: _Settings, dtype: str) -> PackedWeight:
    bits, name = settings.bits, f"{module}.scales"
    words, n = stored.need(f"{module}.qweight", ("I32",), (None, None)).shape
    k = words * 32 // bits
    scales = stored.need(name, SCALES, (None, n))
    groups = scales.shape[0]
    check_said_groups(stored.folder, name, (n, k), bits, groups, settings.group_size)
    stored.need(f"{module}.qzeros", ("I32",), (groups, -(-n * bits // 32)))
    index = f"{module}.g_idx"
    if index in stored:
        check_in_order(stored, index, k, groups)
    parts = (f"{module}.qweight", name, f"{module}.qzeros", *((index,) if index in stored else ()))
    zero = (1 << (bits - 1)) - _BELOW[settings.checkpoint_format or "gptq"]
    return PackedWeight(
        folder=stored.folder,
        name=f"{module}.weight",
        shape=(n, k),
        dtype=dense_dtype(scales.dtype, dtype),
        bits=bits,
        parts=parts,
        file=stored.file_of(parts[0]),
        integers=partial(_integers, stored, module, bits),
        scales=partial(_scales, stored, module, bits, zero, n),
    )


def _integers(stored: StoredTensors, module: str, bits: int) -> NDArray[np.int8]:
    fields = _fields(stored.read(f"{module}.qweight"), bits)  # [words, N, fields]
    columns = fields.transpose(1, 0, 2).reshape(fields.shape[1], -1)
    return signed(columns, bits)


def _scales(stored: StoredTensors, module: str, bits: int, zero: int, n: int) -> NDArray[np.float32]:
    zeros = _fields(stored.read(f"{module}.qzeros"), bits)
    if (zeros.reshape(zeros.shape[0], -1)[:, :n] != zero).any():
        why = f"A zero point is not {1 << (bits - 1)}; symmetric weights are read."
        raise refused(stored.folder, f"{module}.qzeros", why)
    return np.ascontiguousarray(stored.scales(f"{module}.scales").T)


def _fields(words: NDArray[np.int32], bits: int) -> NDArray[np.uint8]:
    if bits == 4:
        return nibbles(words)
    return np.ascontiguousarray(words).view(np.uint8).reshape(*words.shape, 4)
