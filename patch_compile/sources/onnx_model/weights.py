"""The weight of a linear as numbers: read, checked, and put back into its initializer."""

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
    """W `[N, K]` as it is stored, in fp32.

    Raises PatchCompileError when it is not finite, or does not fit `dtype`, the 16-bit type it is to be packed in.
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
    """W `[N, K]` in the 16-bit type it is packed in; tensor: what the linear's initializer holds, or held."""
    return cast_weight(str(linear.weight.name), linear.from_stored(tensor.numpy()), dtype)


def put_weight(linear: OnnxLinear, weight: NDArray[Any]) -> ir.TensorProtocol:
    """A tensor for the linear's initializer, of its type and layout, that holds W `[N, K]`."""
    import onnx_ir as ir

    dtype = linear.weight.dtype
    assert dtype is not None
    # numpy has no direct way between its own and ml_dtypes' 16-bit types; fp32 holds both exactly.
    stored = linear.to_stored(weight.astype(np.float32).astype(dtype.numpy()))
    return ir.Tensor(stored, dtype=dtype, name=linear.weight.name)
