"""Inputs to run an ONNX model on: the arrays of an .npz file, or seeded random arrays."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from masklearn.base.npz import ArrayArchive
from masklearn.base.printable import shown
from patch_compile.artifacts.proof import InputsFile, RandomInputs
from patch_compile.errors import PatchCompileError, reading
from patch_compile.onnx_io.graph_inputs import GraphInput, dim_names, resolve_dims

if TYPE_CHECKING:
    import onnx_ir as ir

Feed = Mapping[str, NDArray[Any]]
_BATCH = 8  # samples per feed if the batch of the graph is dynamic
_RANDOM_FEEDS = 4
_MOST_BYTES = 8 << 30  # of all arrays: a small file can hold very large arrays of zeros
_UNKNOWN_BATCH, _UNKNOWN_SIZE = 2, 16  # dynamic dimensions of unknown size: the first axis, and any other
_LENGTH = re.compile(r"(?:^|[^a-z])(?:len|lens|lengths?)(?:$|[^a-z])")
_KEEP_VALUES = {"Cast", "Expand", "Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze"}


@dataclass(frozen=True)
class Feeds(Sequence[Feed]):
    """Inputs of the graph, one mapping per run."""

    feeds: tuple[Feed, ...]
    origin: InputsFile | RandomInputs

    @property
    def words(self) -> str:
        """Returns a description of them, which a MaskSet records."""
        return str(self.origin)

    def __getitem__(self, index: Any) -> Any:
        return self.feeds[index]

    def __len__(self) -> int:
        return len(self.feeds)


def feeds_from_npz(path: Path, inputs: Sequence[GraphInput], dtypes: Mapping[str, np.dtype[Any]]) -> Feeds:
    """Returns the feeds of a file with one array per graph input, by the input's name. All arrays have one of two forms:

    - `[runs, *input]`: one axis more than the input, which counts the runs.
    - `[samples, …]`: the first axis of the input counts samples. A run takes as many samples as the graph's fixed batch,
      or 8 (the last run may have fewer) if the batch is dynamic.

    The array of a scalar input may also be a scalar, which all runs get.

    Raises PatchCompileError, naming the array, if an array is missing, unknown, or has a shape or type that the input does
    not take.
    """
    fix = (
        f"Give --calib an .npz, numpy.savez(path, NAME=array), for {', '.join(i.spelled() for i in inputs)}: with an axis "
        "more than the inputs, which counts runs, or with the inputs' own axes, the first counting samples. A scalar input "
        "takes one number for all runs."
    )
    with reading(f"The inputs {path}", fix, what="cannot be fed to the graph"):
        arrays = _load(path, inputs)
        given = {i.name: _typed(i, arrays[i.name], dtypes[i.name]) for i in inputs}
        constant = {i.name: given.pop(i.name) for i in inputs if not i.dims and given[i.name].ndim == 0}
        counted = [i for i in inputs if i.name in given]
        extra = {given[i.name].ndim - len(i.dims) for i in counted}
        if extra == {1}:
            feeds = [{name: array[run, ...] for name, array in given.items()} for run in range(_count(given))]
        elif extra == {0}:
            feeds = _by_sample(given, counted)
        elif not counted:
            feeds = [{}]
        else:
            given |= constant
            raise ValueError(
                ", ".join(f"{i.name} is {list(given[i.name].shape)} for {i.spelled()}" for i in inputs)
            )
        feeds = [{**feed, **constant} for feed in feeds]
        for i in inputs:
            _check_shape(i, feeds[0][i.name])
    return Feeds(tuple(feeds), InputsFile(name=path.name, runs=len(feeds)))


def random_feeds(
    path: Path,
    inputs: Sequence[GraphInput],
    dtypes: Mapping[str, np.dtype[Any]],
    sizes: Mapping[str, tuple[int, ...]],
    rows: Mapping[str, int],
    seed: int,
) -> Feeds:
    """Returns four feeds. Floats are normally distributed, and integers are drawn by their use.

    Ids are drawn from all rows of the table that they index. An integer or boolean input is 1 if its name says mask, and the
    length of the sequence if its name says length; all others are 0 or 1.

    path: of the graph; sizes: shapes of dynamic inputs; rows: see `table_rows`. A dynamic dimension of another input is 2 on
    the first axis, else 16. Raises PatchCompileError for shapes that would fill the memory.
    """
    rng = np.random.default_rng(seed)
    assumed = _assumed(inputs)
    shapes = {i.name: sizes[i.name] if i.name in sizes else resolve_dims(i, assumed) for i in inputs}
    taken = {name: _RANDOM_FEEDS * math.prod(shape) * dtypes[name].itemsize for name, shape in shapes.items()}
    if sum(taken.values()) > _MOST_BYTES:
        largest = max(taken, key=taken.__getitem__)
        raise PatchCompileError(
            f"The inputs of {path} would take {sum(taken.values()) / 2**30:.1f} GiB of memory",
            f"At most {_MOST_BYTES >> 30} GiB are made; {largest!r} is {shown(list(shapes[largest]))}.",
            "Give smaller --opt-shapes, or export the model with smaller inputs.",
        )
    sequence = max((size for shape in shapes.values() for size in shape[1:]), default=1)

    def draw(name: str) -> NDArray[Any]:
        if dtypes[name].kind not in "iub":
            return rng.standard_normal(shapes[name], np.float32).astype(dtypes[name])
        if name in rows:
            most = 1 if dtypes[name].kind == "b" else np.iinfo(dtypes[name]).max
            return rng.integers(0, min(rows[name] - 1, most), shapes[name], endpoint=True).astype(
                dtypes[name]
            )
        known = 1 if "mask" in name.lower() else sequence if _LENGTH.search(name.lower()) else None
        values = rng.integers(0, 2, shapes[name]) if known is None else np.full(shapes[name], known)
        return values.astype(dtypes[name])

    feeds = tuple({name: draw(name) for name in shapes} for _ in range(_RANDOM_FEEDS))
    return Feeds(feeds, RandomInputs(runs=_RANDOM_FEEDS, seed=seed, shapes=shapes))


def input_dtypes(path: Path, model: ir.Model) -> dict[str, np.dtype[Any]]:
    """Returns the numpy type of each graph input. Raises PatchCompileError for an input that is not a tensor of numbers."""
    import onnx_ir as ir

    dtypes = {}
    for value in model.graph.inputs:
        dtype = value.dtype if isinstance(value.type, ir.TensorType) else None
        if dtype is None or dtype in (ir.DataType.STRING, ir.DataType.UNDEFINED):
            raise PatchCompileError(
                f"The input {value.name!r} of {path} is not a tensor of numbers",
                f"It is {value.type}.",
                "TensorRT takes only tensors: export the model without it.",
            )
        dtypes[str(value.name)] = np.dtype(dtype.numpy())
    return dtypes


def table_rows(model: ir.Model) -> dict[str, int]:
    """Returns the rows of the smallest stored table that each graph input indexes, by the input's name.

    Tables without rows do not count: they make the graph invalid, and running it says so.
    """
    counts = {str(value.name): [rows for rows in _indexed(value) if rows > 0] for value in model.graph.inputs}
    return {name: min(rows) for name, rows in counts.items() if rows}


def _indexed(value: ir.Value) -> Iterator[int]:
    ahead = [value]
    while ahead:
        for node, position in ahead.pop().uses():
            if node.op_type == "Gather" and position == 1:
                table, axis = node.inputs[0], node.attributes.get_int("axis", 0)
                stored = None if table is None else table.const_value
                shape = () if stored is None else stored.shape.numpy()
                if -len(shape) <= axis < len(shape):
                    yield shape[axis]
            elif node.op_type in _KEEP_VALUES and position == 0:
                ahead.append(node.outputs[0])


def _load(path: Path, inputs: Sequence[GraphInput]) -> dict[str, NDArray[Any]]:
    archive, names = ArrayArchive(path), [i.name for i in inputs]
    if others := {*names} ^ {*archive.names}:
        raise ValueError(f"Only one of the file and the graph has {', '.join(map(repr, sorted(others)))}.")
    sizes = {name: archive.size(name) for name in names}
    if sum(sizes.values()) > _MOST_BYTES:
        listed = ", ".join(f"{name} {size / 2**30:.1f} GiB" for name, size in sizes.items())
        raise ValueError(
            f"At most {_MOST_BYTES >> 30} GiB are read, as all runs are held in memory: {listed}."
        )
    return {name: archive.read(name, size) for name, size in sizes.items()}


def _typed(i: GraphInput, array: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[Any]:
    if array.dtype.kind == "f" and not bool(np.isfinite(array).all()):
        raise ValueError(f"{i.name!r} holds NaN or infinity: leave such samples out.")
    return array.astype(dtype, copy=False, casting="same_kind")


def _by_sample(
    given: Mapping[str, NDArray[Any]], inputs: Sequence[GraphInput]
) -> list[dict[str, NDArray[Any]]]:
    samples, fixed = _count(given), {i.dims[0] for i in inputs if isinstance(i.dims[0], int)}
    batch = next(iter(fixed), _BATCH)
    assert isinstance(batch, int)
    if len(fixed) > 1 or (fixed and samples % batch):
        raise ValueError(
            f"{samples} samples do not make whole batches of {', '.join(i.spelled() for i in inputs)}."
        )
    return [
        {n: array[start : start + batch] for n, array in given.items()} for start in range(0, samples, batch)
    ]


def _count(given: Mapping[str, NDArray[Any]]) -> int:
    counts = {name: array.shape[0] for name, array in given.items()}
    if len({*counts.values()}) != 1 or 0 in counts.values():
        listed = ", ".join(f"{name}: {count}" for name, count in counts.items())
        raise ValueError(f"The first axes differ or are empty ({listed}).")
    return int(next(iter(counts.values())))


def _check_shape(i: GraphInput, array: NDArray[Any]) -> None:
    fits = all(isinstance(dim, str) or dim == size for dim, size in zip(i.dims, array.shape, strict=True))
    if not fits:
        raise ValueError(f"A run feeds {list(array.shape)} for {i.spelled()}.")


def _assumed(inputs: Sequence[GraphInput]) -> dict[str, int]:
    """Returns a size for each dynamic dimension, the same for all inputs that have it."""
    first = {i.dims[0] for i in inputs if i.dims}
    return {dim: _UNKNOWN_BATCH if dim in first else _UNKNOWN_SIZE for dim in dim_names(tuple(inputs))}
