"""Checks the index of every PatchLinear of an ONNX file before an engine is built, as the plugin will."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from patch_compile.errors import PatchCompileError
from patch_compile.packing.format import SLAB_K
from patch_compile.packing.function import DOMAIN, INPUTS, KINDS, NAME
from patch_compile.packing.index import index_fault, index_from_attribute
from patch_compile.packing.version import check_version

if TYPE_CHECKING:
    import onnx

__all__ = ["check_indexes"]


def check_indexes(onnx_path: Path) -> None:
    """Read the index of every PatchLinear, an attribute, and no tensor.

    Raises PatchCompileError that names the first node whose index lies about its slabs.
    """
    from onnx import helper

    from patch_compile.onnx_io.graph_inputs import load_graph

    graph = load_graph(onnx_path)
    stored = {tensor.name: tensor for tensor in graph.initializer}
    nodes = [node for node in graph.node if (node.domain, node.op_type) == (DOMAIN, NAME)]
    check_version(onnx_path, nodes)
    for node in nodes:
        given = dict(zip(INPUTS, node.input, strict=False))
        dense, sparse = (stored.get(given.get(role, "")) for role in ("dense", "sparse"))
        if dense is None or sparse is None:
            raise _refused(onnx_path, node, "its packed tensors are no constants of the graph")
        attributes = {each.name: helper.get_attribute_value(each) for each in node.attribute}
        grid = _grid(attributes)
        if grid is None or not (dense.dims and sparse.dims):
            raise _refused(onnx_path, node, "its attributes or the shapes of its packed tensors are none")
        if attributes.get("kinds") != KINDS.encode():
            raise _refused(onnx_path, node, f"its attribute kinds is not {KINDS!r}")
        index = index_from_attribute(attributes.get("index"))
        fault = index_fault(index, grid, dense.dims[0], sparse.dims[0])
        if fault:
            raise _refused(onnx_path, node, fault)


def _grid(attributes: dict[str, Any]) -> tuple[int, int] | None:
    """Returns the packed panels of a node, and its slabs along K; None if an attribute is missing or not positive."""
    sizes = [attributes.get(name, 0) for name in ("out_features", "in_features", "panel_rows")]
    gated = attributes.get("gated", 0)
    if not all(isinstance(size, int) and size > 0 for size in sizes) or gated not in (0, 1):
        return None
    rows, columns, panel_rows = sizes
    return (1 + gated) * -(-rows // panel_rows), -(-columns // SLAB_K)


def _refused(onnx_path: Path, node: onnx.NodeProto, why: str) -> PatchCompileError:
    return PatchCompileError(
        f"The PatchLinear {node.name!r} of {onnx_path} is damaged",
        f"{why[0].upper()}{why[1:]}.",
        "Compile the model again.",
    )
