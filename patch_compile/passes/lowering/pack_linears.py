"""Rewrites linears, with all that is fused to them, into PatchLinear nodes with packed weights."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir import passes

from masklearn.masks.kinds.base import TileKind
from masklearn.masks.linear_mask import LinearMask
from masklearn.quant.grid import Grid
from masklearn.quant.table import WeightType
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
from patch_compile.passes.lowering.packed_initializers import (
    LinearsToPack,
    ReadTensor,
    check_grid,
    check_kinds,
    joint_bias,
    packed_initializers,
)
from patch_compile.planning.lowering import LinearPlan


class PackLinearsPass(passes.InPlacePass):
    """`Y = Linear(X, W, …)` -> `Y = PatchLinear(X, dense, sparse, meta[, b])`: all linears planned as `plugin`.

    1. Packed initializers `<node>.dense|sparse|meta|…` and the attribute `index` replace the weights, and one bias replaces
       the biases of several linears; see `packed_initializers`.
    2. The model gets a function body for each combination of an epilogue, of kinds of slabs and of a weight type.
    3. Quantised weights are packed as the integers of their grid.
    """

    def __init__(
        self,
        plan: Mapping[str, LinearPlan],
        masks: Mapping[str, LinearMask],
        read: ReadTensor,
        dtype: ir.DataType,
        grids: Mapping[str, Grid] | None = None,
    ) -> None:
        """read: returns the values of a tensor (`<linear>.weight`, a bias), by name, in the graph's 16-bit type; for a
        quantised weight, in a type that holds it exactly. grids: the grids of the quantised linears.
        """
        super().__init__()
        self._grids = grids or {}
        self.plan = dict(plan)  # the pass adds the nodes and panels
        self._masks = masks
        self._read = read
        self._dtype = dtype

    def requires(self, model: ir.Model) -> None:
        """Each planned linear is in exactly one Linear node, as after GatherLinearsPass. Linears of a node have the same
        weight type, and quantised linears a grid of this type.
        """
        gathered = sorted(
            name for node in linear_nodes(model.graph) for name in LinearNode.read(node).linears
        )
        planned = sorted(name for name, plan in self.plan.items() if plan.lowering == "plugin")
        if gathered != planned:
            raise passes.PreconditionError(f"linears of the graph are {gathered}, planned {planned}")
        for node in linear_nodes(model.graph):
            linear = LinearNode.read(node)
            types = {self.plan[name].weights for name in linear.linears}
            if len(types) > 1:
                raise passes.PreconditionError(f"{linear.name} would have weights of {sorted(types)}")
        for name in planned:
            weights, grid = self.plan[name].weight_type, self._grids.get(name)
            if weights.quantised and (grid is None or grid.type is not weights):
                raise passes.PreconditionError(f"{name} is planned as {weights}, and has no grid of it")

    def call(self, model: ir.Model) -> passes.PassResult:
        """Rewrite the graph. `modified` is False if no linear is planned as `plugin`.

        Raises PatchCompileError for scales that do not fit a weight or the graph's type, and for tiles that no kernel
        multiplies with weights of the linear's type.
        """
        for name, plan in self.plan.items():
            if plan.weight_type.quantised:
                check_grid(name, self._grids[name], plan.shape, self._dtype)
            if plan.lowering == "plugin":
                check_kinds(name, self._masks[name], plan.weight_type)
        bfloat16, bodies = self._dtype == ir.DataType.BFLOAT16, {}
        for node in linear_nodes(model.graph):
            linear = LinearNode.read(node)
            kinds, weights = self._rewrite(model.graph, node, linear)
            bodies[overload_of(linear.epilogue, kinds, weights)] = (linear.epilogue, kinds, weights)
        for _, (epilogue, kinds, weights) in sorted(bodies.items(), key=lambda item: item[0]):
            opset = model.graph.opset_imports[""]
            proto = patch_linear_function(
                epilogue, opset=opset, bfloat16=bfloat16, kinds=kinds, weights=weights
            )
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
        planned = {
            name: plan.node.name
            for name, plan in self.plan.items()
            if plan.node and plan.lowering == "plugin"
        }
        if nodes != Counter({*planned.values()}):
            raise passes.PostconditionError("PatchLinear nodes and planned linears differ")
        left = [name for name in planned if f"{name}.weight" in model.graph.initializers]
        if left:
            raise passes.PostconditionError(f"weights remain in addition to their packed form: {left[:3]}")

    def _rewrite(
        self, graph: ir.Graph, node: ir.Node, linear: LinearNode
    ) -> tuple[tuple[TileKind, ...], WeightType | None]:
        """Returns the kinds of the node's slabs, and the type of quantised weights, None for 16-bit weights."""
        plans = [self._planned(name, linear) for name in linear.linears]
        to_pack = LinearsToPack(linear, plans, self._masks, self._read, self._dtype, self._grids)
        made, index, kinds = packed_initializers(to_pack)
        weights = to_pack.weights
        for plan in plans:
            others = {kind.name: plan.slabs.others.get(kind.name, 0) for kind in kinds[len(ALWAYS) :]}
            # A kind that only its siblings have counts too, with 0 slabs: it has a row of pointers in the index.
            counted = plan.slabs.model_copy(update={"others": others})
            self.plan[plan.name] = plan.changed(slabs=counted)
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
            _attributes(to_pack, index, kinds),
            overload=overload_of(linear.epilogue, kinds, weights),
            name=linear.name,
        )
        graph.insert_before(node, packed)
        take_over(node.outputs[0], packed.outputs[0])
        graph.remove(node, safe=True)
        for value in (*linear.weights, *linear.biases):
            if value.name is not None and not value.uses():
                graph.initializers.pop(value.name)
        return kinds, weights

    def _planned(self, name: str, linear: LinearNode) -> LinearPlan:
        sharing = [self._masks[one] for one in (linear.linears if linear.gated else (name,))]
        self.plan[name] = self.plan[name].fused(sharing, linear.planned, linear.panel_rows)
        return self.plan[name]


def _attributes(to_pack: LinearsToPack, index: NDArray[np.int32], kinds: Sequence[TileKind]) -> list[ir.Attr]:
    linear, weights = to_pack.linear, to_pack.weights
    attributes = {
        "in_features": linear.shapes[0][1],
        "out_features": sum(linear.rows),
        "panel_rows": to_pack.panel_rows,
        "kinds": kinds_attribute(kinds),
        "weights": weights.name if weights else to_pack.dtype.name.lower(),
        **linear.epilogue.attributes,
        "plugin_namespace": "",
        "plugin_version": str(VERSION),
    }
    simple = [
        ir.AttrInt64(name, value) if isinstance(value, int) else ir.AttrString(name, value)
        for name, value in attributes.items()
    ]
    return [*simple, ir.AttrInt64s("index", index.tolist())]
