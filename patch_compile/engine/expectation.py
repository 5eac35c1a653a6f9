"""Contents that an engine must have, computed from its ONNX file without reading the weights.

Before, it checks every PatchLinear of the file. The plugin repeats the check.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from patch_compile.errors import PatchCompileError
from patch_compile.packing.checks import check_version, kernel_fault
from patch_compile.packing.function import DOMAIN, NAME, tensor_names
from patch_compile.packing.index import index_fault, index_from_attribute
from patch_compile.packing.slab_kinds import ALWAYS, SLAB_K, kinds_from_attribute, weights_from_attribute
from patch_compile.planning.split import PART
from patch_compile.plugin.kernels import kernels_for

if TYPE_CHECKING:
    import onnx

    from masklearn.masks.kinds.base import TileKind
    from masklearn.quant.table import WeightType

_PRODUCTS = ("MatMul", "Gemm", "Conv")


@dataclass(frozen=True)
class PlanExpectation:
    """Contents that an engine must have.

    patch_linears: name of each PatchLinear node → bytes of its packed tensors (dense, sparse, meta, and values and masks of
    further kinds of slabs).
    dtype: type that the nodes compute in, `float16` or `bfloat16`; None in a graph without PatchLinear, and if the file does
    not tell it. sparse_parts: names of the products of split linears whose weights are 2:4. Each must be in the engine.
    TensorRT may merge it with other sparse parts only: merged with a dense product, it would be computed densely. products:
    names of all other matrix products of the graph. packed_inputs: number of the packed tensors of each node that has more
    than dense, sparse and meta. quantised: names of the nodes whose slabs are int32 words of integers. kernels:
    groups of the plugin's kernels that the nodes run, see `plugin.kernels`; none if the file does not tell the type.
    """

    patch_linears: Mapping[str, int]
    dtype: str | None
    sparse_parts: frozenset[str] = frozenset()
    products: frozenset[str] = frozenset()
    packed_inputs: Mapping[str, int] = field(default_factory=dict)
    quantised: frozenset[str] = frozenset()
    kernels: frozenset[str] = frozenset()

    @property
    def packed_bytes(self) -> int:
        return sum(self.patch_linears.values())


def expectation_from_onnx(onnx_path: Path) -> PlanExpectation:
    """Returns the expectation of an ONNX file.

    Raises PatchCompileError for a file that is not a model, and for PatchLinear nodes that share a name, differ in type, or
    are damaged.
    """
    from patch_compile.onnx_io.proto import load_proto

    graph = load_proto(onnx_path).graph
    stored = {tensor.name: tensor for tensor in graph.initializer}
    nodes = [node for node in graph.node if (node.domain, node.op_type) == (DOMAIN, NAME)]
    _check_nodes(onnx_path, nodes, stored)
    _check_names(node.name for node in nodes)
    slab_types = {node.name: _slab_types(_attributes(node)) for node in nodes}
    packed = {
        node.name: [stored[name] for name in node.input[1 : 1 + len(tensor_names(*slab_types[node.name]))]]
        for node in nodes
    }
    quantised = frozenset(name for name, (_, weights) in slab_types.items() if weights is not None)
    slabs = {
        _dtype(tensor.data_type)
        for name, tensors in packed.items()
        if name not in quantised
        for tensor in tensors[:2]  # dense and sparse
    }
    dtypes = slabs or _types_of_x(graph, nodes)
    if len(dtypes) > 1:
        raise PatchCompileError(
            f"{onnx_path} mixes types",
            f"Its PatchLinear nodes hold {' and '.join(sorted(dtypes))}.",
            "Compile the model again.",
        )
    dtype = dtypes.pop() if dtypes else None
    kernels = (kernels_for(dtype, weights, kinds) for kinds, weights in slab_types.values() if dtype)
    usual = len(tensor_names(ALWAYS))
    products = {node.name: _is_sparse_part(node) for node in graph.node if node.op_type in _PRODUCTS}
    sparse = frozenset(name for name, is_sparse in products.items() if is_sparse)
    return PlanExpectation(
        patch_linears={name: sum(map(_nbytes, tensors)) for name, tensors in packed.items()},
        dtype=dtype,
        sparse_parts=sparse,
        products=frozenset(products) - sparse,
        packed_inputs={name: len(tensors) for name, tensors in packed.items() if len(tensors) != usual},
        quantised=quantised,
        kernels=frozenset(filter(None, kernels)),
    )


def _types_of_x(graph: onnx.GraphProto, nodes: Iterable[onnx.NodeProto]) -> set[str]:
    read = {node.input[0] for node in nodes}
    values = (value for value in (*graph.input, *graph.value_info) if value.name in read)
    return {_dtype(value.type.tensor_type.elem_type) for value in values}


def _attributes(node: onnx.NodeProto) -> dict[str, Any]:
    from onnx import helper

    values = {each.name: helper.get_attribute_value(each) for each in node.attribute}
    return {
        name: value.decode(errors="replace") if isinstance(value, bytes) else value
        for name, value in values.items()
    }


def _slab_types(attributes: Mapping[str, Any]) -> tuple[tuple[TileKind, ...], WeightType | None]:
    """Returns the kinds of a node's slabs and the type of its weights. Raises ValueError for texts that no build writes."""
    return kinds_from_attribute(attributes.get("kinds")), weights_from_attribute(attributes.get("weights"))


def _is_sparse_part(node: onnx.NodeProto) -> bool:
    return any((entry.key, entry.value) == (PART, "sparse") for entry in node.metadata_props)


def _check_names(names: Iterable[str]) -> None:
    for name, count in Counter(names).items():
        if count > 1 or not name:
            raise PatchCompileError(
                f"{count} PatchLinear nodes have the name {name!r}",
                "Each needs one of its own to be found in an engine.",
                "Compile the model again.",
            )


def _nbytes(tensor: onnx.TensorProto) -> int:
    from onnx import helper

    item = int(helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize)
    return item * math.prod(int(size) for size in tensor.dims)


def _dtype(data_type: int) -> str:
    from onnx import TensorProto

    return str(TensorProto.DataType.Name(data_type)).lower()


def _check_nodes(
    onnx_path: Path, nodes: Sequence[onnx.NodeProto], stored: Mapping[str, onnx.TensorProto]
) -> None:
    """Check the PatchLinear nodes of a file: version, attributes, constants, and the index. No tensor is read.

    stored: initializers by name. Raises PatchCompileError that names the first node whose index does not fit its slabs.
    """
    check_version(onnx_path, nodes)
    for node in nodes:
        if fault := _fault(node, stored, _attributes(node)):
            raise PatchCompileError(
                f"The PatchLinear {node.name!r} of {onnx_path} is damaged",
                f"{fault[0].upper()}{fault[1:]}.",
                "Compile the model again.",
            )


def _fault(
    node: onnx.NodeProto, stored: Mapping[str, onnx.TensorProto], attributes: Mapping[str, Any]
) -> str:
    """Returns the fault in a node's index, in words; empty if the index is right."""
    try:
        kinds, weights = _slab_types(attributes)
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


def _grid(attributes: Mapping[str, Any]) -> tuple[int, int] | None:
    """Returns the packed panels of a node, and its slabs along K; None if an attribute is missing or not positive."""
    sizes = [attributes.get(name, 0) for name in ("out_features", "in_features", "panel_rows")]
    gated = attributes.get("gated", 0)
    if not all(isinstance(size, int) and size > 0 for size in sizes) or gated not in (0, 1):
        return None
    rows, columns, panel_rows = sizes
    return -(-(1 + gated) * rows // panel_rows), -(-columns // SLAB_K)
