"""Reads and checks the weight of a linear, and puts it back into its initializer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from patch_compile.errors import PatchCompileError
from patch_compile.onnx_io.write import cast_weight
from patch_compile.sources.onnx_model.linears import OnnxLinear

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["put_weight", "read_rounded", "read_weight"]


def read_weight(linear: OnnxLinear, dtype: ir.DataType) -> NDArray[np.float32]:
    """Returns the stored W `[N, K]` in fp32.

    Raises PatchCompileError if it is not finite, or does not fit `dtype`, the 16-bit type that it is packed in.
    """
    assert linear.weight.const_value is not None
    stored = linear.from_stored(linear.weight.const_value.numpy())
    if not bool(np.isfinite(stored.astype(np.float32)).all()):
        raise PatchCompileError(
            f"{linear.weight.name} holds NaN or infinity",
            f"It is the weight of {linear.name}.",
            f"The model is damaged: fetch it again, or leave the linear dense with --exclude '{linear.name}'.",
        )
    cast_weight(str(linear.weight.name), stored, dtype)
    return stored.astype(np.float32)


def read_rounded(linear: OnnxLinear, tensor: ir.TensorProtocol, dtype: ir.DataType) -> NDArray[Any]:
    """Returns W `[N, K]` in the 16-bit type that it is packed in. tensor: present or earlier content of the linear's
    initializer."""
    return cast_weight(str(linear.weight.name), linear.from_stored(tensor.numpy()), dtype)


def put_weight(linear: OnnxLinear, weight: NDArray[Any]) -> ir.TensorProtocol:
    """Returns a tensor for the linear's initializer that holds W `[N, K]` in the initializer's type and layout."""
    import onnx_ir as ir

    dtype = linear.weight.dtype
    assert dtype is not None
    # numpy cannot convert its own 16-bit type to one of ml_dtypes directly; fp32 holds both exactly.
    stored = linear.to_stored(weight.astype(np.float32).astype(dtype.numpy()))
    return ir.Tensor(stored, dtype=dtype, name=linear.weight.name)
