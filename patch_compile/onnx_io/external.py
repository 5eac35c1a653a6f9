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

from masklearn.base.safe_read import leads_out
from patch_compile.errors import PatchCompileError
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
    location = Path(tensor.location)
    if location.is_absolute() or ".." in location.parts:
        raise PatchCompileError(
            f"{name} of {path} lies outside the model's folder",
            f"Its data are in {location}, and ONNX allows files below the model's folder only.",
            "Save the model again with its data next to it.",
        )
    file = path.parent / location
    if target := leads_out(path.parent, file):
        raise PatchCompileError(
            f"{name} of {path} lies outside the model's folder",
            f"Its data are in {location}, a link to {target}.",
            "Put a copy of the data next to the model.",
        )
    if not file.is_file():
        raise PatchCompileError(
            f"The weights of {path} are missing",
            f"{name} and maybe others lie in {file}, which is not there.",
            f"Put {location} where the model expects it, or fetch the model again with its data.",
        )
    _check_length(file, name, tensor)
    shape, dtype = tuple(tensor.shape.numpy()), tensor.dtype
    return lazy_tensor(name, shape, dtype, partial(_read, file, tensor.offset or 0, dtype.numpy(), shape))


def _check_length(file: Path, name: str, tensor: ir.ExternalTensor) -> None:
    needed, offset = tensor.nbytes, tensor.offset or 0
    if offset < 0 or min(tensor.shape.numpy(), default=0) < 0:
        raise PatchCompileError(
            f"The model says that {name} of shape {list(tensor.shape.numpy())} begins at byte {offset}",
            "Neither can be negative.",
            "Export the model again.",
        )
    if tensor.length is not None and tensor.length != needed:
        raise PatchCompileError(
            f"The model says that {name} has {tensor.length} bytes",
            f"Its shape {list(tensor.shape.numpy())} of {tensor.dtype.name.lower()} needs {needed}.",
            "Export the model again.",
        )
    size = file.stat().st_size
    if offset + needed > size:
        raise PatchCompileError(
            f"{file} is too short",
            f"{name} ends at byte {offset + needed}, the file has {size}.",
            "It was not copied whole: fetch it again.",
        )


def _read(file: Path, offset: int, dtype: np.dtype[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    size = math.prod(shape) * dtype.itemsize
    # Mapping 0 bytes is an error.
    raw = np.memmap(file, np.uint8, "r", offset, size) if size else np.empty(0, np.uint8)
    return raw.view(dtype).reshape(shape)
