"""Counts the nodes of an ONNX file with all its functions inlined, before anything inlines them.

Functions that call functions grow exponentially: 25 of them, each calling the next one twice, are 33 million nodes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from patch_compile.errors import PatchCompileError

if TYPE_CHECKING:
    import onnx

__all__ = ["check_expansion", "nested_nodes"]

_MOST_NODES = 2**19  # a compiled decoder of 126 layers has some 60,000 with its PatchLinear functions
_MOST_DEPTH = 64  # calls of functions inside each other; passes recurse once for each
_Key = tuple[str, str, str]


def nested_nodes(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    """Yield every node, each followed by the nodes of its subgraphs."""
    for node in nodes:
        yield node
        for attribute in node.attribute:
            for graph in (attribute.g, *attribute.graphs):
                yield from nested_nodes(graph.node)


def check_expansion(path: Path, proto: onnx.ModelProto) -> None:
    """Raises PatchCompileError for functions that call themselves, or that expand to more nodes than any model has."""
    functions = {(f.domain, f.name, f.overload): f for f in proto.functions}
    sizes: dict[_Key, int] = {}

    def size_of(nodes: Iterable[onnx.NodeProto], callers: tuple[_Key, ...]) -> int:
        total = 0
        for node in nested_nodes(nodes):
            key = (node.domain, node.op_type, node.overload)
            total += function_size(key, callers) if key in functions else 1
            if total > _MOST_NODES:
                raise _refused(path, f"Its functions expand to more than {_MOST_NODES:,} nodes.")
        return total

    def function_size(key: _Key, callers: tuple[_Key, ...]) -> int:
        if key in callers:
            raise _refused(path, f"Its function {key[1]!r} calls itself.")
        if len(callers) >= _MOST_DEPTH:
            raise _refused(path, f"Its functions call each other more than {_MOST_DEPTH} deep.")
        if key not in sizes:
            sizes[key] = size_of(functions[key].node, (*callers, key))
        return sizes[key]

    size_of(proto.graph.node, ())


def _refused(path: Path, why: str) -> PatchCompileError:
    return PatchCompileError(
        f"{path} can't be inlined", why, "Export the model again, without nested functions."
    )
