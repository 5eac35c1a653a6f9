"""Contents that an engine must have, computed from its ONNX file without reading the weights."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from patch_compile.engine.packed_index import check_nodes
from patch_compile.errors import PatchCompileError
from patch_compile.packing.function import DOMAIN, INPUTS, NAME, tensor_names
from patch_compile.packing.slab_kinds import ALWAYS, kinds_from_attribute, weights_from_attribute
from patch_compile.planning.split import PART
from patch_compile.plugin.kernels import kernels_for

if TYPE_CHECKING:
    import onnx

    from masklearn.masks.kinds.base import TileKind
    from masklearn.quant.table import WeightType

_VALUES = INPUTS[1:3]
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

    Raises PatchCompileError for a file that is not a model, for PatchLinear nodes that share a name or differ in type, and
    as `check_nodes` does.
    """
    from patch_compile.onnx_io.proto import load_proto

    graph = load_proto(onnx_path).graph
    stored = {tensor.name: tensor for tensor in graph.initializer}
    nodes = [node for node in graph.node if (node.domain, node.op_type) == (DOMAIN, NAME)]
    check_nodes(onnx_path, nodes, stored)
    _check_names(node.name for node in nodes)
    packed = {node.name: [stored[name] for name in _constants(node)] for node in nodes}
    quantised = frozenset(node.name for node in nodes if _weights(node) is not None)
    slabs = {
        _dtype(tensor.data_type)
        for name, tensors in packed.items()
        if name not in quantised
        for tensor in tensors[: len(_VALUES)]
    }
    dtypes = slabs or _types_of_x(graph, nodes)
    if len(dtypes) > 1:
        raise PatchCompileError(
            f"{onnx_path} mixes types",
            f"Its PatchLinear nodes hold {' and '.join(sorted(dtypes))}.",
            "Compile the model again.",
        )
    dtype = dtypes.pop() if dtypes else None
    sizes = {name: sum(map(_nbytes, tensors)) for name, tensors in packed.items()}
    usual = len(tensor_names(ALWAYS))
    products = {node.name: _is_sparse_part(node) for node in graph.node if node.op_type in _PRODUCTS}
    sparse = frozenset(name for name, is_sparse in products.items() if is_sparse)
    return PlanExpectation(
        sizes,
        dtype,
        sparse,
        frozenset(products) - sparse,
        {name: len(tensors) for name, tensors in packed.items() if len(tensors) != usual},
        quantised,
        frozenset(
            filter(None, (kernels_for(dtype, _weights(node), _kinds(node)) for node in nodes if dtype))
        ),
    )


def _types_of_x(graph: onnx.GraphProto, nodes: Iterable[onnx.NodeProto]) -> set[str]:
    read = {node.input[0] for node in nodes}
    values = (value for value in (*graph.input, *graph.value_info) if value.name in read)
    return {_dtype(value.type.tensor_type.elem_type) for value in values}


def _kinds(node: onnx.NodeProto) -> tuple[TileKind, ...]:
    from onnx import helper

    (found,) = (helper.get_attribute_value(each) for each in node.attribute if each.name == "kinds")
    return kinds_from_attribute(found.decode())


def _weights(node: onnx.NodeProto) -> WeightType | None:
    from onnx import helper

    found = (helper.get_attribute_value(each) for each in node.attribute if each.name == "weights")
    text = next(found, None)
    return weights_from_attribute(text.decode() if isinstance(text, bytes) else text)


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


def _constants(node: onnx.NodeProto) -> list[str]:
    return list(node.input[1 : 1 + len(tensor_names(_kinds(node), _weights(node)))])


def _nbytes(tensor: onnx.TensorProto) -> int:
    from onnx import helper

    item = int(helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize)
    return item * math.prod(int(size) for size in tensor.dims)


def _dtype(data_type: int) -> str:
    from onnx import TensorProto

    return str(TensorProto.DataType.Name(data_type)).lower()
