"""Rewrites linears, with all that is fused to them, into PatchLinear nodes with packed weights."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir import passes

from masklearn.masks.kinds.base import TileKind
from masklearn.masks.linear_mask import LinearMask
from patch_compile.packing.function import (
    DOMAIN,
    NAME,
    VERSION,
    kinds_attribute,
    overload_of,
    patch_linear_function,
)
from patch_compile.packing.slab_kinds import ALWAYS
from patch_compile.passes.linear_node import LinearNode, linear_nodes, take_over
from patch_compile.passes.lowering.packed_initializers import ReadTensor, joint_bias, packed_initializers
from patch_compile.plan.lowering import LinearPlan

__all__ = ["PackLinearsPass"]


class PackLinearsPass(passes.InPlacePass):
    """`Y = Linear(X, W, …)` -> `Y = PatchLinear(X, dense, sparse, meta[, b])`: all linears planned as `plugin`.

    1. Packed initializers `<node>.dense|sparse|meta|…` and the attribute `index` replace the weights, and one bias replaces
       those of several linears; see `packed_initializers`.
    2. The model gets one function body for each combination of an epilogue and of kinds of slabs.
    """

    def __init__(
        self,
        plan: Mapping[str, LinearPlan],
        masks: Mapping[str, LinearMask],
        read: ReadTensor,
        dtype: ir.DataType,
    ) -> None:
        """read: returns the values of a tensor (`<linear>.weight`, a bias), by name, in the graph's 16-bit type."""
        super().__init__()
        self.plan = dict(plan)  # the pass adds the nodes and panels
        self._masks = masks
        self._read = read
        self._dtype = dtype

    def requires(self, model: ir.Model) -> None:
        """Each planned linear is in exactly one Linear node, as after GatherLinearsPass."""
        found = sorted(name for node in linear_nodes(model.graph) for name in LinearNode.read(node).linears)
        planned = sorted(name for name, plan in self.plan.items() if plan.lowering == "plugin")
        if found != planned:
            raise passes.PreconditionError(f"linears of the graph are {found}, planned {planned}")

    def call(self, model: ir.Model) -> passes.PassResult:
        """Rewrite the graph. `modified` is False if no linear is planned as `plugin`."""
        bfloat16, bodies = self._dtype == ir.DataType.BFLOAT16, {}
        for node in linear_nodes(model.graph):
            linear = LinearNode.read(node)
            kinds = self._rewrite(model.graph, node, linear)
            bodies[overload_of(linear.epilogue, kinds)] = (linear.epilogue, kinds)
        for _, (epilogue, kinds) in sorted(bodies.items()):
            opset = model.graph.opset_imports[""]
            proto = patch_linear_function(epilogue, opset=opset, bfloat16=bfloat16, kinds=kinds)
            function = ir.serde.deserialize_function(proto)
            model.functions[function.identifier()] = function
        if bodies:
            model.graph.opset_imports[DOMAIN] = VERSION
        return passes.PassResult(model, modified=bool(bodies))

    def ensures(self, model: ir.Model) -> None:
        """Each planned linear is in exactly one PatchLinear, and its unpacked weight is removed."""
        nodes = Counter(
            str(node.name) for node in model.graph if (node.domain, node.op_type) == (DOMAIN, NAME)
        )
        planned = {name: plan.node.name for name, plan in self.plan.items() if plan.lowering == "plugin"}
        if nodes != Counter({*planned.values()}):
            raise passes.PostconditionError("PatchLinear nodes and planned linears differ")
        left = [name for name in planned if f"{name}.weight" in model.graph.initializers]
        if left:
            raise passes.PostconditionError(f"weights stay beside their packed form: {left[:3]}")

    def _rewrite(self, graph: ir.Graph, node: ir.Node, linear: LinearNode) -> tuple[TileKind, ...]:
        """Returns the kinds of the node's slabs."""
        plans = [self._planned(name, linear) for name in linear.linears]
        made, index, kinds = packed_initializers(linear, plans, self._masks, self._read, self._dtype)
        for plan in plans:
            others = tuple((kind.name, plan.slabs.get(kind.name, 0)) for kind in kinds[len(ALWAYS) :])
            self.plan[plan.name] = replace(
                plan, others=others
            )  # pointers of kinds that its siblings alone have, too
        slabs, biases = list(made), list(linear.biases)
        if len(biases) > 1:
            biases = [joint_bias(linear, self._read, self._dtype)]
            made += biases
        for value in made:
            graph.register_initializer(value)
        packed = ir.Node(
            DOMAIN,
            NAME,
            [linear.x, *slabs, *biases, *filter(None, [linear.residual])],
            _attributes(plans[0].panel_rows, linear, index, kinds),
            overload=overload_of(linear.epilogue, kinds),
            name=linear.name,
        )
        graph.insert_before(node, packed)
        take_over(node.outputs[0], packed.outputs[0])
        graph.remove(node, safe=True)
        for value in (*linear.weights, *linear.biases):
            if value.name is not None and not value.uses():
                graph.initializers.pop(value.name)
        return kinds

    def _planned(self, name: str, linear: LinearNode) -> LinearPlan:
        self.plan[name] = self.plan[name].fused(self._masks[name], linear.planned, linear.panel_rows)
        return self.plan[name]


def _attributes(
    panel_rows: int, linear: LinearNode, index: NDArray[np.int32], kinds: Sequence[TileKind]
) -> list[ir.Attr]:
    attributes = {
        "in_features": linear.shapes[0][1],
        "out_features": sum(linear.rows),
        "panel_rows": panel_rows,
        "kinds": kinds_attribute(kinds),
        **linear.epilogue.attributes,
        "plugin_namespace": "",
        "plugin_version": str(VERSION),
    }
    simple = [
        ir.AttrInt64(name, value) if isinstance(value, int) else ir.AttrString(name, value)
        for name, value in attributes.items()
    ]
    return [*simple, ir.AttrInt64s("index", index.tolist())]
