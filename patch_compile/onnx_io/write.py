"""Attaches weights to an ONNX graph as lazy tensors and writes them one at a time.

Peak memory depends on the largest tensor, not on the size of the model.
"""

import os
from collections import defaultdict
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from functools import partial
from itertools import chain, count
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Generic, TypeVar

import ml_dtypes
import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from masklearn.base.durable import whole_file
from masklearn.model.naming import check_tensor, from_stored, tied_name
from patch_compile.errors import PatchCompileError

if TYPE_CHECKING:
    from masklearn.model.checkpoint import Checkpoint

Made = TypeVar("Made")

# TensorRT and ONNX Runtime map the file. They need not copy a tensor that begins at a page.
_ALIGNMENT = 4096
# In bytes. Shapes and scalars stay in the graph, where parsers look for build-time constants.
_INLINE = 1024
_SOURCES = ("float16", "bfloat16", "float32", "float64")


def bind_weights(model: ir.Model, checkpoint: "Checkpoint", dtype: ir.DataType) -> None:
    """Attach the checkpoint's tensors to the initializers without data. They are read when the graph is written.

    dtype: the graph's type, FLOAT16 or BFLOAT16. A weight of another type is cast when it is read.

    Raises PatchCompileError if a weight is missing in the checkpoint or has another shape.
    """
    for value in model.graph.initializers.values():
        if value.const_value is not None:
            continue
        assert value.name is not None and value.shape is not None
        if value.dtype != dtype:
            raise ValueError(f"{value.name} is {value.dtype} in a graph of {dtype}")
        name, shape = value.name, value.shape.numpy()
        if (
            name not in checkpoint
            and (tied := tied_name(checkpoint, name)) is not None
            and tied in checkpoint
        ):
            name = tied
        check_tensor(checkpoint, name, shape)
        make = partial(read_weight, checkpoint, name, dtype)
        value.const_value = lazy_tensor(value.name, shape, dtype, make)


def read_weight(checkpoint: "Checkpoint", name: str, dtype: ir.DataType | None) -> NDArray[Any]:
    """Read a tensor and cast it to `dtype`, None for its own type. A linear's weight is returned as [N, K], even if stored
    transposed (GPT-2).

    Raises PatchCompileError as `cast_weight` does.
    """
    stored = checkpoint.read(name)
    if dtype is not None:
        stored = cast_weight(name, stored, dtype)
    return np.asarray(from_stored(checkpoint, name, stored), order="C")


def cast_weight(name: str, array: NDArray[Any], dtype: ir.DataType) -> NDArray[Any]:
    """Round a weight to the graph's type, to nearest even.

    Raises PatchCompileError if a finite weight is too large for fp16, and for a weight that is not floating-point.
    """
    if array.dtype.name not in _SOURCES:
        raise PatchCompileError(
            f"{name} is {array.dtype.name} in the checkpoint",
            "Weights must be fp16, bf16 or fp32.",
            "Use the unquantized checkpoint.",
        )
    target = dtype.numpy()
    if array.dtype == target:
        return array
    # numpy has no direct cast between float16 and ml_dtypes.bfloat16. fp32 holds both exactly.
    wide = array if array.dtype in (np.float32, np.float64) else array.astype(np.float32)
    with np.errstate(over="ignore"):
        rounded = wide.astype(target)
    overflowed = np.isfinite(wide) & ~np.isfinite(rounded.astype(np.float32))
    if overflowed.any():
        largest = float(np.abs(wide[overflowed]).max())
        raise PatchCompileError(
            f"{name} does not fit {dtype.name.lower()}: its largest weight is {largest:g}",
            f"{dtype.name.lower()} ends at {float(ml_dtypes.finfo(target).max):g}.",
            "Choose bf16 (--dtype bfloat16).",
        )
    return rounded


class MadeOnce(Generic[Made]):
    """Makes the array that several lazy tensors are cut from when the first tensor is written, and frees it after the
    last."""

    def __init__(self, make: Callable[[], Made], tensors: int) -> None:
        self._make, self._tensors = make, tensors
        self._made: Made | None = None
        self._taken: set[object] = set()

    def take(self, tensor: object) -> Made:
        """Returns the array for a tensor, which any key identifies."""
        made = self._make() if self._made is None else self._made
        self._taken.add(tensor)
        last = len(self._taken) == self._tensors
        self._made, self._taken = (None, set()) if last else (made, self._taken)
        return made


def lazy_tensor(
    name: str, shape: Sequence[int], dtype: ir.DataType, make: Callable[[], NDArray[Any]]
) -> ir.LazyTensor:
    """Returns a tensor whose values come from `make`, which is called at each use."""
    return ir.LazyTensor(
        lambda: ir.Tensor(make(), dtype=dtype, name=name), dtype=dtype, shape=ir.Shape(shape), name=name
    )


def lazy_initializer(
    name: str, shape: Sequence[int], dtype: ir.DataType, make: Callable[[], NDArray[Any]]
) -> ir.Value:
    """Returns a value that holds `lazy_tensor`, for a graph to register."""
    tensor = lazy_tensor(name, shape, dtype, make)
    return ir.Value(name=name, shape=ir.Shape(shape), type=ir.TensorType(dtype), const_value=tensor)


def widen(value: ir.Value) -> None:
    """Give a value the type fp32. The numbers of a constant are converted at each use."""
    value.type = ir.TensorType(ir.DataType.FLOAT)
    if (tensor := value.const_value) is not None:
        name, shape = str(value.name), tensor.shape.numpy()
        value.const_value = lazy_tensor(
            name, shape, ir.DataType.FLOAT, lambda: tensor.numpy().astype(np.float32)
        )


def write_onnx(model: ir.Model, path: Path) -> None:
    """Write `path` and `path`.data atomically, with one tensor in memory at a time.

    Each tensor above 1 KiB goes to the data file, at a multiple of 4096 bytes. The model keeps its (lazy) tensors, and its
    values get names apart from each other.

    Raises ValueError if an initializer has no data; see `bind_weights`.
    """
    import onnx

    data = path.with_name(path.name + ".data")
    path.parent.mkdir(parents=True, exist_ok=True)
    _name_apart(model)
    originals = {value: value.const_value for value in model.graph.initializers.values()}
    missing = [str(value.name) for value, tensor in originals.items() if tensor is None]
    if missing:
        raise ValueError(f"initializers without data: {missing[:5]}")
    try:
        # The data is renamed first, and then the graph that names it.
        with whole_file(path) as path_part, whole_file(data) as data_part:
            named = ((str(value.name), tensor) for value, tensor in originals.items() if tensor is not None)
            stored = store_tensors(named, data_part, data.name)
            for value, written in zip(originals, stored, strict=True):
                value.const_value = written
            onnx.save_model(ir.to_proto(model), str(path_part))
            path.unlink(missing_ok=True)  # no reader may combine the old graph with the new data
    finally:
        for value, tensor in originals.items():
            value.const_value = tensor


def store_tensors(
    tensors: Iterable[tuple[str, ir.TensorProtocol]], part: Path, location: str
) -> list[ir.TensorProtocol]:
    """Write the large ones of some named tensors to the file `part`, which will be called `location`. Returns them all, with
    their places in it.

    Small tensors are evaluated too: a lazy tensor is evaluated once, in its place among the others.
    """
    with part.open("wb") as stream:
        return [
            _append(stream, name, tensor, location)
            if tensor.nbytes > _INLINE
            else ir.Tensor(tensor.numpy(), dtype=tensor.dtype, name=name)
            for name, tensor in tensors
        ]


def free_name(name: str, taken: Container[str], numbers: Iterable[int] | None = None) -> str:
    """Returns `name`, or the first of `name/1`, `name/2`, … that is not taken. numbers: continues an earlier count."""
    tried = chain([name], (f"{name}/{number}" for number in numbers or count(1)))
    return next(one for one in tried if one not in taken)


def _name_apart(model: ir.Model) -> None:
    """Give a free name to each value with the name of another value. Inputs, outputs and weights keep their names.

    Passes name new values after old values, and a graph of another program may have these names already.
    """
    graphs = list(model.graphs())
    values = [v for graph in graphs for v in (*graph.inputs, *graph.outputs, *graph.initializers.values())]
    values += [value for graph in graphs for node in graph for value in node.outputs]
    taken: set[str] = set()
    numbers = defaultdict[str, Iterator[int]](lambda: count(1))
    for value in dict.fromkeys(values):
        if value.name:  # an optional output that is left out has none
            value.name = free_name(value.name, taken, numbers[value.name])
            taken.add(value.name)


def _append(stream: BinaryIO, name: str, tensor: ir.TensorProtocol, location: str) -> ir.ExternalTensor:
    stream.seek(-stream.tell() % _ALIGNMENT, os.SEEK_CUR)
    offset = stream.tell()
    # Written through a view, because `tobytes` would make a second copy of the tensor.
    array = np.ascontiguousarray(tensor.numpy())
    if array.shape != tuple(tensor.shape) or array.dtype != tensor.dtype.numpy():
        raise ValueError(f"{name} is {array.dtype} {array.shape}, announced as {tensor.dtype} {tensor.shape}")
    stream.write(array.view(np.uint8).data)
    shape = ir.Shape(tensor.shape.numpy())
    return ir.ExternalTensor(location, offset, array.nbytes, tensor.dtype, shape=shape, name=name)
