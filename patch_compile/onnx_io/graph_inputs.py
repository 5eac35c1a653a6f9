"""Reads the inputs of an ONNX file and evaluates their symbolic dimensions, without TensorRT."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from patch_compile.errors import PatchCompileError
from patch_compile.onnx_io.proto import load_proto

if TYPE_CHECKING:
    import onnx

Dim = int | str
_NAME = re.compile(r"[A-Za-z_][\w.]*")  # exporters number names behind a dot: p2o.DynamicDimension.0
_OPERATORS = re.compile(r"[+*/(]|\s-\s")
_TOTAL, _PARTS = "total", ("past", "sequence")


@dataclass(frozen=True)
class GraphInput:
    """A graph input. Each dimension is a size, or a symbol such as `batch` or `past + sequence`."""

    name: str
    dims: tuple[Dim, ...]

    @property
    def is_dynamic(self) -> bool:
        """True if a dimension is symbolic, so that a profile has to give the shape."""
        return any(isinstance(dim, str) for dim in self.dims)

    def spelled(self) -> str:
        """Returns the input as messages show it: `input_ids [batch, sequence]`."""
        return f"{self.name} [{', '.join(str(dim) for dim in self.dims)}]"


def read_inputs(onnx_path: Path) -> tuple[GraphInput, ...]:
    """Returns the inputs of an ONNX file that are not initializers. Does not read external data.

    Raises PatchCompileError if the file is missing or is not an ONNX model, or if an input has no shape.
    """
    graph = load_proto(onnx_path).graph
    stored = {tensor.name for tensor in graph.initializer}
    return tuple(_read_input(onnx_path, value) for value in graph.input if value.name not in stored)


def _read_input(path: Path, value: onnx.ValueInfoProto) -> GraphInput:
    tensor = value.type.tensor_type
    if not tensor.HasField("shape"):
        raise PatchCompileError(
            f"The input {value.name} of {path} has no shape",
            "A profile needs to know its rank.",
            "Export the model with shapes.",
        )
    # A dimension without size or name becomes a symbol too. Its name is unique, so that it differs from all others.
    stem = re.sub(r"\W", "_", value.name)
    dims = (
        dim.dim_value if dim.HasField("dim_value") else dim.dim_param or f"{stem}_{axis}"
        for axis, dim in enumerate(tensor.shape.dim)
    )
    return GraphInput(value.name, tuple(dims))


def dim_names(inputs: tuple[GraphInput, ...]) -> tuple[str, ...]:
    """Returns the symbols of the inputs, each once: `batch`, `sequence`, `past`, `total`."""
    symbols = (dim for graph_input in inputs for dim in graph_input.dims if isinstance(dim, str))
    return tuple(dict.fromkeys(name for symbol in symbols for name in _names_in(symbol)))


def resolve_dims(graph_input: GraphInput, sizes: Mapping[str, int]) -> tuple[int, ...]:
    """Returns the shape of an input for these sizes of symbols. `total` is past + sequence unless it is given.

    Raises PatchCompileError, naming the input and the dimension, if a dimension has no size.
    """
    return tuple(
        dim if isinstance(dim, int) else _evaluate(graph_input, axis, dim, sizes)
        for axis, dim in enumerate(graph_input.dims)
    )


def _evaluate(graph_input: GraphInput, axis: int, symbol: str, sizes: Mapping[str, int]) -> int:
    if symbol in sizes:
        return sizes[symbol]
    if symbol == _TOTAL and all(part in sizes for part in _PARTS):
        return sum(sizes[part] for part in _PARTS)
    terms = [term.strip() for term in symbol.split("+")]
    if len(terms) > 1 and all(term in sizes or term.isdigit() for term in terms):
        return sum(sizes[term] if term in sizes else int(term) for term in terms)
    shape = f"{symbol}=SIZE" if _names_in(symbol) == [symbol] else f"{graph_input.name}:SHAPE"
    raise PatchCompileError(
        f"There is no size for the dimension {symbol!r} (axis {axis}) of the input {graph_input.spelled()}",
        f"Sizes are given for {', '.join(sizes) or 'nothing'}.",
        f"Give a size for each: --opt-shapes {shape}, separated by commas.",
    )


def _names_in(symbol: str) -> list[str]:
    """Returns the names in a formula such as `past + sequence`. A symbol without operators is a single name, of any
    characters."""
    return _NAME.findall(symbol) if _OPERATORS.search(symbol) else [symbol]
