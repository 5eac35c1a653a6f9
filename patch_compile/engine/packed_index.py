"""Checks every PatchLinear of an ONNX file before an engine is built. The plugin repeats the check."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from patch_compile.errors import PatchCompileError
from patch_compile.packing.checks import check_version, kernel_fault
from patch_compile.packing.function import tensor_names
from patch_compile.packing.index import index_fault, index_from_attribute
from patch_compile.packing.slab_kinds import (
    SLAB_K,
    kinds_from_attribute,
    weights_from_attribute,
)

if TYPE_CHECKING:
    import onnx


def check_nodes(
    onnx_path: Path, nodes: Sequence[onnx.NodeProto], stored: Mapping[str, onnx.TensorProto]
) -> None:
    """Check the PatchLinear nodes of a file: version, attributes, constants, and the index. No tensor is read.

    stored: initializers by name. Raises PatchCompileError that names the first node whose index does not fit its slabs.
    """
    from onnx import helper

    check_version(onnx_path, nodes)
    for node in nodes:
        attributes = {each.name: helper.get_attribute_value(each) for each in node.attribute}
        fault = _fault(node, stored, attributes)
        if fault:
            raise _refused(onnx_path, node, fault)


def _fault(
    node: onnx.NodeProto, stored: Mapping[str, onnx.TensorProto], attributes: Mapping[str, Any]
) -> str:
    """Returns the fault in a node's index, in words; empty if the index is right."""
    try:
        kinds = kinds_from_attribute(_text(attributes.get("kinds")))
        weights = weights_from_attribute(_text(attributes.get("weights")))
    except ValueError as error:
        return str(error)
    if fault := kernel_fault(weights, kinds, attributes.get("panel_rows"), attributes.get("in_features")):
        return fault
    roles = tensor_names(kinds, weights)
    tensors = [stored.get(name) for name in node.input[1 : 1 + len(roles)]]
    if len(tensors) < len(roles) or None in tensors:
        return "its packed tensors are not constants of the graph"
    grid = _grid(attributes)
    if grid is None or not all(tensor is not None and tensor.dims for tensor in tensors):
        return "its attributes or the shapes of its packed tensors are missing or not valid"
    rows = [int(tensor.dims[0]) for tensor in tensors if tensor is not None]
    # After the single tensor of dense slabs each kind has two tensors: values, and data that tells their places. The scales
    # of rows come last.
    counts = dict(
        zip((kind.name for kind in kinds), [rows[0], *rows[1 : 2 * len(kinds) - 1 : 2]], strict=True)
    )
    return index_fault(index_from_attribute(attributes.get("index")), grid, counts)


def _text(value: object) -> object:
    return value.decode(errors="replace") if isinstance(value, bytes) else value


def _grid(attributes: Mapping[str, Any]) -> tuple[int, int] | None:
    """Returns the packed panels of a node, and its slabs along K; None if an attribute is missing or not positive."""
    sizes = [attributes.get(name, 0) for name in ("out_features", "in_features", "panel_rows")]
    gated = attributes.get("gated", 0)
    if not all(isinstance(size, int) and size > 0 for size in sizes) or gated not in (0, 1):
        return None
    rows, columns, panel_rows = sizes
    return -(-(1 + gated) * rows // panel_rows), -(-columns // SLAB_K)


def _refused(onnx_path: Path, node: onnx.NodeProto, why: str) -> PatchCompileError:
    return PatchCompileError(
        f"The PatchLinear {node.name!r} of {onnx_path} is damaged",
        f"{why[0].upper()}{why[1:]}.",
        "Compile the model again.",
    )
