"""Names the linears of an ONNX file as they are named in the model's source code, if possible."""

from __future__ import annotations

import re
from collections.abc import Container
from typing import TYPE_CHECKING

from masklearn.masks.kinds.table import KINDS
from masklearn.quant.table import INT8
from patch_compile.onnx_io.torch_scopes import torch_scopes
from patch_compile.packing.function import tensor_names

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["linear_name", "node_name", "owners_of", "reserved_names", "unique"]

_SUFFIX = ".weight"
_MADE = (_SUFFIX, ".bias", *(f".{name}" for name in tensor_names(KINDS, INT8)))
_SPLIT = re.compile(r"\.split\.")  # `<linear>.split.<what>`: see SplitLinearsPass


def linear_name(weight: ir.Value, product: ir.Node, taken: Container[str]) -> str:
    """Returns the first of these names that exists, made unique:

    1. the initializer's name without `.weight`: `encoder.0.fc` for `encoder.0.fc.weight`;
    2. the module of the node according to torch's exporter;
    3. the node's path: `layers.0.linear1` for `/layers.0/linear1/MatMul`;
    4. the initializer's name.
    """
    name = str(weight.name)
    if name.endswith(_SUFFIX) and name != _SUFFIX:
        return unique(name.removesuffix(_SUFFIX), taken)
    return unique(_module(product) or _path(product) or name, taken)


def owners_of(constant: str) -> set[str]:
    """Returns the names of all linears that may have an initializer of this name during or after compilation."""
    whole = {constant.removesuffix(end) for end in _MADE if constant.endswith(end)}
    return whole | {constant[: found.start()] for found in _SPLIT.finditer(constant)}


def reserved_names(graph: ir.Graph) -> set[str]:
    """Returns names that no linear can have, because a graph input or output has the name of one of its constants."""
    names = [str(value.name) for value in (*graph.inputs, *graph.outputs)]
    return set().union(*map(owners_of, names))


def node_name(node: ir.Node) -> str:
    """Returns a node's name; its kind and output if it has no name."""
    return node.name or f"{node.op_type} of {node.outputs[0].name}"


def unique(name: str, taken: Container[str]) -> str:
    """Returns `name`, or the first of `name_2`, `name_3`, … that is not taken."""
    candidate, number = name, 1
    while candidate in taken:
        number += 1
        candidate = f"{name}_{number}"
    return candidate


def _module(node: ir.Node) -> str:
    scopes = torch_scopes(node)
    return scopes[-2] if len(scopes) > 1 else ""


def _path(node: ir.Node) -> str:
    parts = [part for part in (node.name or "").split("/") if part]
    if len(parts) > 1 and re.fullmatch(rf"{node.op_type}(_\d+)?", parts[-1]):
        parts.pop()
    return ".".join(parts)
