"""Rewrite covered linears into PatchLinear nodes over packed weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir import passes

from masklearn.maskset import LinearMask
from patch_compile.errors import InvariantError
from patch_compile.invariants import check_packed
from patch_compile.ops.patch_linear import DOMAIN, NAME, OVERLOAD_BIAS, VERSION, patch_linear_function
from patch_compile.packing import PackedLinear, csr_index, pack, sparse_slabs
from patch_compile.passes.find_linears import LinearSite, find_linears
from patch_compile.plan.lowering import LinearPlan

__all__ = ["PackLinearsPass"]

ReadWeight = Callable[[str], NDArray[Any]]


class PackLinearsPass(passes.InPlacePass):
    """`Y = X Wᵀ (+ b)` -> `Y = PatchLinear(X, dense, sparse, meta, index[, b])` for each linear planned as `plugin`.

    1. A linear planned as `dense` keeps its MatMul; its weight is read masked when it is written.
    2. The weight initializer gives way to four packed ones, `<name>.dense|sparse|meta|index`; they are packed, and
       checked against the masked weight bit for bit, when they are written, one linear in memory at a time.
    3. The function body (one, and one with a bias) is added to the model once.
    """

    def __init__(
        self,
        plan: Mapping[str, LinearPlan],
        masks: Mapping[str, LinearMask],
        read: ReadWeight,
        dtype: ir.DataType,
    ) -> None:
        """read: name of a linear to its weight `[N, K]`, already in the graph's 16-bit type."""
        super().__init__()
        self._plan = plan
        self._masks = masks
        self._read = read
        self._dtype = dtype

    def requires(self, model: ir.Model) -> None:
        """Every planned linear is in the graph, with the shape of its mask and the type asked for."""
        sites = find_linears(model)
        for name, plan in self._plan.items():
            weight = sites[name].weight if name in sites else None
            if weight is None:
                raise passes.PreconditionError(f"the graph has no linear {name}")
            if weight.shape != plan.shape or weight.dtype != self._dtype:
                raise passes.PreconditionError(
                    f"{name} is {weight.dtype} {weight.shape}, planned {self._dtype} {plan.shape}"
                )

    def call(self, model: ir.Model) -> passes.PassResult:
        """Rewrite; modified is False when the plan sends every linear to `dense`."""
        sites = find_linears(model)
        packed = [name for name, plan in self._plan.items() if plan.lowering == "plugin"]
        with_bias = {self._rewrite(model.graph, name, sites[name]) for name in packed}
        for bias in sorted(with_bias):
            proto = patch_linear_function(
                opset=model.graph.opset_imports[""], bias=bias, bfloat16=self._dtype == ir.DataType.BFLOAT16
            )
            function = ir.serde.deserialize_function(proto)
            model.functions[function.identifier()] = function
        if packed:
            model.graph.opset_imports[DOMAIN] = VERSION
        return passes.PassResult(model, modified=bool(packed))

    def ensures(self, model: ir.Model) -> None:
        """One PatchLinear per planned linear, and no weight of theirs left beside it."""
        nodes = [node.name for node in model.graph if (node.domain, node.op_type) == (DOMAIN, NAME)]
        planned = [name for name, plan in self._plan.items() if plan.lowering == "plugin"]
        if sorted(map(str, nodes)) != sorted(planned):
            raise passes.PostconditionError("PatchLinear nodes and planned linears differ")
        left = [name for name in planned if f"{name}.weight" in model.graph.initializers]
        if left:
            raise passes.PostconditionError(f"weights stay beside their packed form: {left[:3]}")

    def _rewrite(self, graph: ir.Graph, name: str, site: LinearSite) -> bool:
        plan = self._plan[name]
        inputs = [site.x, *self._packed_initializers(graph, name, plan)]
        if site.bias is not None:
            inputs.append(site.bias)
        node = ir.Node(
            DOMAIN,
            NAME,
            inputs,
            [
                ir.AttrInt64("in_features", plan.shape[1]),
                ir.AttrInt64("out_features", plan.shape[0]),
                ir.AttrInt64("panel_rows", plan.panel_rows),
                ir.AttrString("plugin_namespace", ""),
                ir.AttrString("plugin_version", str(VERSION)),
            ],
            overload=OVERLOAD_BIAS if site.bias is not None else "",
            name=name,
        )
        _replace(graph, site, node)
        return site.bias is not None

    def _packed_initializers(self, graph: ir.Graph, name: str, plan: LinearPlan) -> list[ir.Value]:
        rows = plan.panel_rows
        index = csr_index(sparse_slabs(self._masks[name], rows))
        once = _PackedOnce(partial(self._pack, name, plan, index))
        shapes = {
            "dense": (self._dtype, (plan.dense_slabs, rows * 64)),
            "sparse": (self._dtype, (plan.sparse_slabs, rows * 32)),
            "meta": (ir.DataType.INT32, (plan.sparse_slabs, rows * 2)),
        }
        tensors: dict[str, ir.TensorProtocol] = {
            part: ir.LazyTensor(
                partial(once.take, part, dtype),
                dtype=dtype,
                shape=ir.Shape(shape),
                name=f"{name}.{part}",
                cache=False,
            )
            for part, (dtype, shape) in shapes.items()
        }
        tensors["index"] = ir.Tensor(index, name=f"{name}.index")
        values = []
        for tensor in tensors.values():
            value = ir.Value(
                name=tensor.name,
                shape=ir.Shape(tensor.shape.numpy()),
                type=ir.TensorType(tensor.dtype),
                const_value=tensor,
            )
            graph.register_initializer(value)
            values.append(value)
        return values

    def _pack(self, name: str, plan: LinearPlan, index: NDArray[np.int32]) -> PackedLinear:
        weight = self._read(name).view(np.uint16)
        packed = pack(weight, self._masks[name], plan.panel_rows)
        check_packed(name, packed, weight, self._masks[name])
        if not np.array_equal(packed.index, index):
            raise InvariantError(f"{name}: the index announced and the index packed differ")
        return packed


class _PackedOnce:
    """Packs a linear when the first of its three tensors is written and forgets it after the last."""

    def __init__(self, make: Callable[[], PackedLinear]) -> None:
        self._make = make
        self._packed: PackedLinear | None = None
        self._taken: set[str] = set()

    def take(self, part: str, dtype: ir.DataType) -> ir.TensorProtocol:
        if self._packed is None:
            self._packed = self._make()
        array = getattr(self._packed, part)
        self._taken.add(part)
        if len(self._taken) == 3:
            self._packed, self._taken = None, set()
        return ir.Tensor(array.view(dtype.numpy()), dtype=dtype)


def _replace(graph: ir.Graph, site: LinearSite, node: ir.Node) -> None:
    """Put `node` in the place of the site's nodes, under the same output value name."""
    last = site.output.producer()
    if last is None:
        raise InvariantError("a linear's output has no producer")
    output = node.outputs[0]
    output.name, output.shape, output.type = site.output.name, site.output.shape, site.output.type
    graph.insert_before(last, node)
    ir.convenience.replace_all_uses_with(site.output, output, replace_graph_outputs=True)
    weight = site.weight
    graph.remove(site.nodes, safe=True)
    if weight.name is not None and not weight.uses():
        graph.initializers.pop(weight.name)
