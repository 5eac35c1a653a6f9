"""Loads an ONNX file as a protobuf message, without its external data and without meaningless names of dimensions."""

from __future__ import annotations

import gc
import logging
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from masklearn.base.printable import shown
from masklearn.base.safe_read import require_file
from patch_compile.errors import PatchCompileError, reading

if TYPE_CHECKING:
    import onnx
    import onnx_ir as ir

STANDARD_DOMAINS = ("", "ai.onnx")
"""The two spellings of the domain of ONNX's own operators."""

_SAYS_NOTHING = re.compile(r"\W*|-\d+")  # what exporters call dimensions without a name: `?`, `-1`
_MOST_NODES = 2**19  # a compiled decoder of 126 layers has some 60,000 with its PatchLinear functions
_MOST_DEPTH = 64  # calls of functions inside each other; passes recurse once for each
_BYTES = re.compile(r"[0-9]{1,18}")
_Key = tuple[str, str, str]


def load_proto(path: Path) -> onnx.ModelProto:
    """Load a file without its external data. Dimensions of unknown size, which exporters spell `-1` or `?`, become
    dimensions without size and name: a shared name would mean that they are equal.

    Raises PatchCompileError if it is not an ONNX model, and as `_check_expansion` does.
    """
    import onnx

    with reading(path, "Give an ONNX file, with its weights stored densely."):
        require_file(path)
        proto = onnx.load(str(path), load_external_data=False)
        if not proto.graph.node:
            raise ValueError("It holds no graph.")
        if proto.graph.sparse_initializer:
            raise ValueError("Neither ONNX Runtime nor TensorRT multiplies by its sparse initializers.")
        _check_messages(proto)
    with reading(path, "Export the model again, without nested functions.", what="can't be inlined"):
        _check_expansion(proto)
    _clear_unknown_sizes(proto.graph)
    return proto


def model_of(path: Path, proto: onnx.ModelProto) -> ir.Model:
    """Returns the model of the file at `path`. Raises PatchCompileError for parts that onnx_ir does not know."""
    import onnx_ir as ir

    try:
        with without_collections():
            return ir.from_proto(proto)
    except ir.serde.SerdeError as error:
        cause: BaseException = error
        while cause.__cause__ is not None:  # each level of the graph wraps the error again
            cause = cause.__cause__
        raise PatchCompileError(
            f"{path} can't be taken apart",
            f"{str(cause).partition('. ')[0].rstrip('.')}.",
            "TensorRT takes only graphs of tensors: export the model without maps, and without post-processing.",
        ) from error


@contextmanager
def without_collections() -> Iterator[None]:
    """Collect no garbage in the block. Each collection would look at all objects that are made, or that libraries hold, and
    find nothing: a fifth of the time of a trace."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@contextmanager
def silenced(level: int, *libraries: str) -> Iterator[None]:
    """Drop the log messages of libraries below this level in the block."""
    before = {logger: logger.level for logger in map(logging.getLogger, libraries)}
    for logger in before:
        logger.setLevel(level)
    try:
        yield
    finally:
        for logger, earlier in before.items():
            logger.setLevel(earlier)


@contextmanager
def refusing_invalid(path: Path) -> Iterator[None]:
    """Raise PatchCompileError for a file that leads to an error in the block, if ONNX's own checker refuses it too.

    The checker refuses some files of old exporters that run, so it is asked only after an error. An error about a file that
    it finds valid is a fault of this program, and is raised unchanged.
    """
    try:
        yield
    except PatchCompileError:
        raise
    except Exception as error:
        fault = _fault_of(path)
        if fault is None:
            raise
        raise PatchCompileError(f"{path} is not a valid ONNX model", fault, "Export it again.") from error


def _fault_of(path: Path) -> str | None:
    """Returns the fault that ONNX's checker finds, or None."""
    import onnx

    try:
        onnx.checker.check_model(str(path), full_check=True)
    except Exception as error:  # errors of C++ come as many types
        return f"{' '.join(str(error).split()).rstrip('.')}."
    return None


def _check_messages(proto: onnx.ModelProto) -> None:
    """Raise ValueError for a text that is not UTF-8, which protobuf gives as bytes, and for a tensor whose place in
    a data file is not a number of bytes."""
    import onnx

    for message in _messages(proto):
        if isinstance(message, onnx.TensorProto):
            _check_place(message)
        for field, value in message.ListFields():
            if field.type == field.TYPE_STRING:
                texts = [value] if isinstance(value, str | bytes) else value
                if any(isinstance(text, bytes) for text in texts):
                    raise ValueError(f"A {field.name} in it is not UTF-8.")


def tensors_of(proto: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """Returns the tensors of a model: weights of its graph, of subgraphs and functions, and constants of nodes."""
    import onnx

    return (message for message in _messages(proto) if isinstance(message, onnx.TensorProto))


def _messages(proto: onnx.ModelProto) -> Iterator[Any]:
    """Yield a model and all messages in it."""
    waiting: list[Any] = [proto]
    while waiting:
        message = waiting.pop()
        yield message
        for field, value in message.ListFields():
            if field.message_type is not None:
                waiting += value if isinstance(value, Sequence) else [value]


def _check_place(tensor: onnx.TensorProto) -> None:
    for entry in tensor.external_data:
        if entry.key in ("offset", "length") and not _BYTES.fullmatch(entry.value):
            raise ValueError(
                f"{tensor.name} has {shown(entry.value)!r} for a number of bytes, its {entry.key}."
            )


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


def nested_nodes(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    """Yield every node, each followed by the nodes of its subgraphs."""
    for node in nodes:
        yield node
        for attribute in node.attribute:
            for graph in (attribute.g, *attribute.graphs):
                yield from nested_nodes(graph.node)


def _check_expansion(proto: onnx.ModelProto) -> None:
    """Raise ValueError for functions that call themselves, or that expand to more nodes than any model has.

    Nodes are counted before functions are inlined. Functions that call functions grow exponentially: 25 functions, each
    calling the next twice, are 33 million nodes.
    """
    functions = {(f.domain, f.name, f.overload): f for f in proto.functions}
    sizes: dict[_Key, int] = {}

    def size_of(nodes: Iterable[onnx.NodeProto], callers: tuple[_Key, ...]) -> int:
        total = 0
        for node in nested_nodes(nodes):
            key = (node.domain, node.op_type, node.overload)
            total += function_size(key, callers) if key in functions else 1
            if total > _MOST_NODES:
                raise ValueError(f"Its functions expand to more than {_MOST_NODES:,} nodes.")
        return total

    def function_size(key: _Key, callers: tuple[_Key, ...]) -> int:
        if key in callers:
            raise ValueError(f"Its function {key[1]!r} calls itself.")
        if len(callers) >= _MOST_DEPTH:
            raise ValueError(f"Its functions call each other more than {_MOST_DEPTH} deep.")
        if key not in sizes:
            sizes[key] = size_of(functions[key].node, (*callers, key))
        return sizes[key]

    size_of(proto.graph.node, ())
