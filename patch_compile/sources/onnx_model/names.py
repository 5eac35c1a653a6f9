"""Names for the linears of an ONNX file, such as a person would find in the model's source."""

from __future__ import annotations

import ast
import re
from collections.abc import Container
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["constants_of", "linear_name", "node_name", "reserved_names", "unique"]

_SUFFIX = ".weight"
_MADE = (_SUFFIX, ".bias", ".dense", ".sparse", ".meta", ".index")
_SCOPES = "pkg.torch.onnx.name_scopes"  # torch's exporter: "['', 'layers.1', 'layers.1.linear2', 'linear_7']"


def linear_name(weight: ir.Value, product: ir.Node, taken: Container[str]) -> str:
    """The first of these that there is, made unique:

    1. the initializer's name without `.weight`: `encoder.0.fc` of `encoder.0.fc.weight`;
    2. the module that torch's exporter says the node is of;
    3. the node's path: `layers.0.linear1` of `/layers.0/linear1/MatMul`;
    4. the initializer's name.
    """
    name = str(weight.name)
    if name.endswith(_SUFFIX) and name != _SUFFIX:
        return unique(name.removesuffix(_SUFFIX), taken)
    return unique(_module(product) or _path(product) or name, taken)


def constants_of(linear: str) -> set[str]:
    """Names of the initializers that a linear may have once it is compiled, and on the way there."""
    return {f"{linear}{end}" for end in _MADE}


def reserved_names(graph: ir.Graph) -> set[str]:
    """Names that a linear can't have, for an input or output of the graph is called like its constants."""
    names = [str(value.name) for value in (*graph.inputs, *graph.outputs)]
    return {name.removesuffix(end) for name in names for end in _MADE if name.endswith(end)}


def node_name(node: ir.Node) -> str:
    """A node's name, or its kind and output where it has none."""
    return node.name or f"{node.op_type} of {node.outputs[0].name}"


def unique(name: str, taken: Container[str]) -> str:
    """`name`, or the first of `name_2`, `name_3`, … that is not taken."""
    candidate, number = name, 1
    while candidate in taken:
        number += 1
        candidate = f"{name}_{number}"
    return candidate


def _module(node: ir.Node) -> str:
    scopes = node.metadata_props.get(_SCOPES)
    return ast.literal_eval(scopes)[-2] if scopes and scopes.count(",") else ""


def _path(node: ir.Node) -> str:
    parts = [part for part in (node.name or "").split("/") if part]
    if len(parts) > 1 and re.fullmatch(rf"{node.op_type}(_\d+)?", parts[-1]):
        parts.pop()
    return ".".join(parts)
