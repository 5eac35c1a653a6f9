"""Replaces the products of linears that will be packed by temporary Linear nodes."""

from __future__ import annotations

from collections.abc import Mapping

import onnx_ir as ir
from onnx_ir import passes

from patch_compile.passes.find_linears import lowerable_linears
from patch_compile.passes.linear_node import LinearNode, linear_nodes, take_over
from patch_compile.passes.linears import Linear
from patch_compile.planning.lowering import LinearPlan


class GatherLinearsPass(passes.InPlacePass):
    """`MatMul(X, Wᵀ)` -> `Linear(X, W)` for each linear planned as `plugin`: the input of all fusions and PackLinearsPass.

    The bias of a Gemm becomes an Add that follows, as after a MatMul.
    """

    def __init__(self, plan: Mapping[str, LinearPlan], dtype: ir.DataType) -> None:
        """dtype: the graph's 16-bit type."""
        super().__init__()
        self._plan = plan
        self._dtype = dtype

    def requires(self, model: ir.Model) -> None:
        """Every planned linear is in the graph, with the planned shape and type."""
        check_planned(model, {name: plan.shape for name, plan in self._plan.items()}, self._dtype)

    def call(self, model: ir.Model) -> passes.PassResult:
        """Rewrite the graph. `modified` is False if no linear is planned as `plugin`."""
        planned = {name for name, plan in self._plan.items() if plan.lowering == "plugin"}
        for name, linear in lowerable_linears(model).items():
            if name in planned:
                _rewrite(model.graph, linear)
        return passes.PassResult(model, modified=bool(planned))

    def ensures(self, model: ir.Model) -> None:
        """The Linear nodes are exactly the planned linears."""
        found = sorted(name for node in linear_nodes(model.graph) for name in LinearNode.read(node).linears)
        planned = sorted(name for name, plan in self._plan.items() if plan.lowering == "plugin")
        if found != planned:
            raise passes.PostconditionError(f"gathered are {found}, planned {planned}")


def check_planned(model: ir.Model, shapes: Mapping[str, tuple[int, int]], dtype: ir.DataType) -> None:
    """Raise PreconditionError if a linear is not in the graph with this (N, K) and in this type."""
    found = lowerable_linears(model)
    for name, shape in shapes.items():
        if name not in found:
            raise passes.PreconditionError(f"the graph has no linear {name} whose weight nothing else reads")
        linear = found[name]
        if linear.shape != shape or linear.dtype != dtype:
            raise passes.PreconditionError(
                f"{name} is {linear.dtype} {linear.shape}, planned {dtype} {shape}"
            )


def _rewrite(graph: ir.Graph, linear: Linear) -> None:
    product, node, path = linear.product, LinearNode(linear.x, (linear.weight,)).node(), linear.path
    made, before = node.outputs[0], product.outputs[0]
    graph.insert_before(product, node)
    if linear.bias is not None and linear.bias in product.inputs:
        made.name, made.shape, made.type = f"{linear.name}/product", before.shape, before.type
        add = ir.node("Add", [made, linear.bias], name=f"{linear.name}/bias")
        graph.insert_before(product, add)
        made = add.outputs[0]
    take_over(before, made)
    # The Add of a bias after the product stays.
    graph.remove([product, *path], safe=True)
