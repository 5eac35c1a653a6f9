"""Rewrite covered linears, and what follows them, into PatchLinear nodes over packed weights."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import onnx_ir as ir
from onnx_ir import passes

from masklearn.maskset import LinearMask
from patch_compile.errors import InvariantError
from patch_compile.ops.patch_linear import (
    DOMAIN,
    GATED_PANEL_ROWS,
    NAME,
    VERSION,
    Epilogue,
    patch_linear_function,
)
from patch_compile.passes.find_epilogues import FusedSite, find_epilogues, site_of
from patch_compile.passes.find_linears import LinearSite, find_linears
from patch_compile.passes.packed_initializers import ReadTensor, concatenated_bias, packed_initializers
from patch_compile.plan.lowering import LinearPlan

__all__ = ["PackLinearsPass"]


class PackLinearsPass(passes.InPlacePass):
    """`Y = X Wᵀ (+ b)` -> `Y = PatchLinear(X, dense, sparse, meta, index[, b])` for each linear planned as `plugin`.

    1. A linear planned as `dense` keeps its MatMul; its weight is read masked when it is written.
    2. With `fuse`, what follows a linear goes into its node where `find_epilogues` finds that it can: an activation, a
       residual, or the product of gate and up, which then share a node.
    3. The weight initializers give way to four packed ones, `<node>.dense|sparse|meta|index`, and the biases of gate and
       up to one; see `packed_initializers`.
    4. The function body is added to the model once for each kind of epilogue.
    """

    def __init__(
        self,
        plan: Mapping[str, LinearPlan],
        masks: Mapping[str, LinearMask],
        read: ReadTensor,
        dtype: ir.DataType,
        *,
        fuse: bool = True,
    ) -> None:
        """read: name of a tensor (`<linear>.weight`, a bias) to its values, already in the graph's 16-bit type."""
        super().__init__()
        self.plan = dict(plan)  # as compiled, once the pass has run: with nodes, epilogues and panels
        self._masks = masks
        self._read = read
        self._dtype = dtype
        self._fuse = fuse

    def requires(self, model: ir.Model) -> None:
        """Every planned linear is in the graph, with the shape of its mask and the type asked for."""
        sites = find_linears(model)
        for name, plan in self.plan.items():
            weight = sites[name].weight if name in sites else None
            if weight is None:
                raise passes.PreconditionError(f"the graph has no linear {name}")
            if weight.shape != plan.shape or weight.dtype != self._dtype:
                raise passes.PreconditionError(
                    f"{name} is {weight.dtype} {weight.shape}, planned {self._dtype} {plan.shape}"
                )

    def call(self, model: ir.Model) -> passes.PassResult:
        """Rewrite; modified is False when the plan sends every linear to `dense`."""
        sites = self._sites(find_linears(model))
        for site in sites:
            self._rewrite(model.graph, site)
        bfloat16 = self._dtype == ir.DataType.BFLOAT16
        epilogues = {site.epilogue.overload: site.epilogue for site in sites}
        for _, epilogue in sorted(epilogues.items()):
            proto = patch_linear_function(epilogue, opset=model.graph.opset_imports[""], bfloat16=bfloat16)
            function = ir.serde.deserialize_function(proto)
            model.functions[function.identifier()] = function
        if sites:
            model.graph.opset_imports[DOMAIN] = VERSION
        return passes.PassResult(model, modified=bool(sites))

    def ensures(self, model: ir.Model) -> None:
        """Each planned linear is in one PatchLinear, and its weight is not left beside it."""
        nodes = Counter(
            str(node.name) for node in model.graph if (node.domain, node.op_type) == (DOMAIN, NAME)
        )
        planned = {name: plan.node for name, plan in self.plan.items() if plan.lowering == "plugin"}
        if nodes != Counter({*planned.values()}):
            raise passes.PostconditionError("PatchLinear nodes and planned linears differ")
        left = [name for name in planned if f"{name}.weight" in model.graph.initializers]
        if left:
            raise passes.PostconditionError(f"weights stay beside their packed form: {left[:3]}")

    def _sites(self, linears: Mapping[str, LinearSite]) -> list[FusedSite]:
        """What each node will take the place of, in the order of the plan."""
        planned = [name for name, plan in self.plan.items() if plan.lowering == "plugin"]
        found = (
            find_epilogues(linears, planned) if self._fuse else [site_of(linears[name]) for name in planned]
        )
        first = {site.linears[0].name: site for site in found}
        return [first[name] for name in planned if name in first]

    def _rewrite(self, graph: ir.Graph, site: FusedSite) -> None:
        plans = [self._planned(linear.name, site) for linear in site.linears]
        packed = packed_initializers(site.name, plans, self._masks, self._read, self._dtype)
        made, inputs = packed, [site.linears[0].x, *packed]
        biases = [linear.bias for linear in site.linears if linear.bias is not None]
        if len(biases) > 1:
            biases = [concatenated_bias(site.name, biases, self._read, self._dtype)]
            made = [*packed, *biases]
        for value in made:
            graph.register_initializer(value)
        inputs += biases
        if site.residual is not None:
            inputs.append(site.residual)
        node = ir.Node(
            DOMAIN,
            NAME,
            inputs,
            _attributes(plans[0], site.epilogue),
            overload=site.epilogue.overload,
            name=site.name,
        )
        _replace(graph, site, node)

    def _planned(self, name: str, site: FusedSite) -> LinearPlan:
        rows = GATED_PANEL_ROWS if site.epilogue.gated else None
        self.plan[name] = self.plan[name].fused(self._masks[name], site.name, site.described(name), rows)
        return self.plan[name]


def _attributes(plan: LinearPlan, epilogue: Epilogue) -> list[ir.Attr]:
    attributes = {
        "in_features": plan.shape[1],
        "out_features": plan.shape[0],
        "panel_rows": plan.panel_rows,
        **epilogue.attributes,
        "plugin_namespace": "",
        "plugin_version": str(VERSION),
    }
    return [
        ir.AttrInt64(name, value) if isinstance(value, int) else ir.AttrString(name, value)
        for name, value in attributes.items()
    ]


def _replace(graph: ir.Graph, site: FusedSite, node: ir.Node) -> None:
    """Put `node` in the place of the site's nodes, under the same output value name."""
    last = site.output.producer()
    if last is None:
        raise InvariantError("a linear's output has no producer")
    output = node.outputs[0]
    output.name, output.shape, output.type = site.output.name, site.output.shape, site.output.type
    graph.insert_before(last, node)
    ir.convenience.replace_all_uses_with(site.output, output, replace_graph_outputs=True)
    graph.remove(site.nodes, safe=True)
    for linear in site.linears:
        for value in (linear.weight, linear.bias):
            if value is not None and value.name is not None and not value.uses():
                graph.initializers.pop(value.name)
