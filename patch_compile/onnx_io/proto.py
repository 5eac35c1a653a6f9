"""Loads an ONNX file as a protobuf message, without its external data and without dimensions that say nothing."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from patch_compile.errors import PatchCompileError

if TYPE_CHECKING:
    import onnx

__all__ = ["load_proto"]

_SAYS_NOTHING = re.compile(r"\W*|-\d+")  # dimension names of exporters that know no name: `?`, `-1`


def load_proto(path: Path) -> onnx.ModelProto:
    """Load a file without its external data. Dimensions of unknown size, which exporters spell `-1` or `?`, become
    dimensions without size and name: one name for several of them would mean that they are equal.

    Raises PatchCompileError if it is no ONNX model.
    """
    import onnx

    try:
        proto = onnx.load(str(path), load_external_data=False)
    except OSError as error:
        raise PatchCompileError(
            f"{path} cannot be read", error.strerror or str(error), "Give an ONNX file."
        ) from None
    except Exception as error:  # protobuf's DecodeError shares no public base class with onnx's errors
        raise PatchCompileError(f"{path} is not an ONNX model", str(error), "Give an ONNX file.") from None
    if not proto.graph.node:
        raise PatchCompileError(f"{path} is not an ONNX model", "It holds no graph.", "Give an ONNX file.")
    if proto.graph.sparse_initializer:
        raise PatchCompileError(
            f"{path} holds sparse initializers",
            "Neither ONNX Runtime nor TensorRT multiplies by them.",
            "Store the weights densely.",
        )
    _clear_unknown_sizes(proto.graph)
    return proto


def _clear_unknown_sizes(graph: onnx.GraphProto) -> None:
    for value in _values(graph):
        for dim in value.type.tensor_type.shape.dim if value.type.tensor_type.HasField("shape") else ():
            if dim.dim_value < 0 or (dim.HasField("dim_param") and _SAYS_NOTHING.fullmatch(dim.dim_param)):
                dim.ClearField("value")


def _values(graph: onnx.GraphProto) -> Iterator[onnx.ValueInfoProto]:
    """Yield the described values of a graph and of its subgraphs."""
    yield from (*graph.input, *graph.output, *graph.value_info)
    for node in graph.node:
        for attribute in node.attribute:
            for subgraph in (attribute.g, *attribute.graphs):
                yield from _values(subgraph)
