"""External data of an ONNX file: checks that the bytes of every tensor are there, then maps them into memory."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray
from onnx.external_data_helper import uses_external_data

from masklearn.base.safe_read import leads_out, require_file
from patch_compile.errors import PatchCompileError, reading
from patch_compile.onnx_io.proto import load_proto, tensors_of
from patch_compile.onnx_io.write import lazy_tensor

_SMALL = 64  # elements; shapes and scalars are read at once, because passes need their values


def map_external_data(path: Path, model: ir.Model) -> None:
    """Map the external tensors of the main graph of the model at `path`.

    Raises PatchCompileError when a tensor's file is missing, too short or outside the model's folder, when its length
    does not match its shape, and for weights of less than 8 bits.
    """
    for value in model.graph.initializers.values():
        tensor = value.const_value
        if isinstance(tensor, ir.ExternalTensor):
            mapped = _mapped(path, str(value.name), tensor)
            value.const_value = mapped if mapped.size > _SMALL else ir.Tensor(mapped.numpy(), name=value.name)
        elif tensor is not None and tensor.dtype.bitwidth < 8 and tensor.dtype != ir.DataType.STRING:
            raise PatchCompileError(
                f"{value.name} holds {tensor.dtype.name.lower()} weights",
                "PatchLinear computes in fp16 or bf16.",
                "Give the model as it was before it was quantized.",
            )


def external_files(path: Path, proto: onnx.ModelProto | None = None) -> list[Path]:
    """Returns the files in the model's folder that tensors of the model at `path` lie in, sorted.

    proto: the loaded file, None to load it.
    """
    tensors = (tensor for tensor in tensors_of(proto or load_proto(path)) if uses_external_data(tensor))
    named = {entry.value for tensor in tensors for entry in tensor.external_data if entry.key == "location"}
    files = sorted(path.parent / name for name in named)
    return [file for file in files if file.is_file() and not leads_out(path.parent, file)]


def _mapped(path: Path, name: str, tensor: ir.ExternalTensor) -> ir.LazyTensor:
    """Returns a tensor of the model at `path`, after checks of its file. It is read at each use and not kept.

    ir.ExternalTensor refuses files behind symbolic links (all files of a hub cache) and hard links (made by rebuilds).
    Errors: see `map_external_data`.
    """
    file = path.parent / tensor.location
    if target := leads_out(path.parent, file):
        raise PatchCompileError(
            f"{name} of {path} lies outside the model's folder",
            f"Its data are in {tensor.location}, which leads to {target}.",
            "Put a copy of the data next to the model, and save the model with it.",
        )
    fix = (
        f"Put {tensor.location} where the model expects it, or export or fetch the model again with its data."
    )
    with reading(file, fix, what=f"does not hold {name} of {path}"):
        _check_length(require_file(file).st_size, tensor)
    shape, dtype = tuple(tensor.shape.numpy()), tensor.dtype
    return lazy_tensor(name, shape, dtype, partial(_read, file, tensor.offset or 0, dtype.numpy(), shape))


def _check_length(size: int, tensor: ir.ExternalTensor) -> None:
    """Raise ValueError if a tensor is not in a file of this size."""
    shape, needed, offset = list(tensor.shape.numpy()), tensor.nbytes, tensor.offset or 0
    if offset < 0 or min(shape, default=0) < 0:
        raise ValueError(
            f"The model says that the shape {shape} begins at byte {offset}; neither can be negative."
        )
    if tensor.length not in (None, needed):
        raise ValueError(f"{shape} of {tensor.dtype.name.lower()} needs {needed} bytes, not {tensor.length}.")
    if offset + needed > size:
        raise ValueError(f"It ends at byte {offset + needed}, and the file has {size}.")


def _read(file: Path, offset: int, dtype: np.dtype[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    size = math.prod(shape) * dtype.itemsize
    # Mapping 0 bytes is an error.
    raw = np.memmap(file, np.uint8, "r", offset, size) if size else np.empty(0, np.uint8)
    return raw.view(dtype).reshape(shape)
