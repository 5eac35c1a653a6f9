"""Rewrites linears of any form into the form that GatherLinearsPass takes, in the 16-bit type of their packed weights."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import onnx_ir as ir

from patch_compile.onnx_io.write import cast_weight, lazy_initializer
from patch_compile.passes.find_linears import lowerable_linears
from patch_compile.passes.linear_node import insert_cast, insert_node, take_over
from patch_compile.passes.linears import Linear, owners_of


class NormalizeLinearsPass(ir.passes.InPlacePass):
    """MatMul, Gemm or 1×1 Conv -> `MatMul(X, Transpose(W))` (+ b), W an initializer [N, K] named `<linear>.weight`.

    1. W and b are read through their Casts and Transposes, and get the 16-bit type; b becomes `<linear>.bias` [N].
    2. If X has another type, a Cast is inserted before the first linear that reads X, and a Cast of Y back after each
       linear. The two Casts are omitted if Y goes directly into another linear.
    3. For a convolution, Transposes before and after the linear move the features of X [B, K, ...] last and Y's back.
    """

    def __init__(self, linears: Mapping[str, Linear], dtype: ir.DataType) -> None:
        """linears: found by `find_linears` in the model that the pass is called with; dtype: FLOAT16 or BFLOAT16."""
        super().__init__()
        self.weights: dict[str, ir.TensorProtocol] = {}  # the new initializers, by name
        self._linears = linears
        self._dtype = dtype
        self._narrowed: dict[ir.Value, ir.Value] = {}

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Rewrite each linear in graph order."""
        make_room(model.graph, set(self._linears))
        for linear in self._linears.values():
            self._rewrite(model.graph, linear)
        return ir.passes.PassResult(model, modified=bool(self._linears))

    def ensures(self, model: ir.Model) -> None:
        """Raise PostconditionError if the lowering passes cannot find a linear."""
        found = lowerable_linears(model)
        lost = [name for name in self._linears if name not in found]
        if lost:
            raise ir.passes.PostconditionError(f"linears are lost: {lost[:3]}")

    def _rewrite(self, graph: ir.Graph, linear: Linear) -> None:
        name, dtype, output, last = linear.name, self._dtype, linear.output, 1 + linear.spatial
        put = partial(insert_node, graph, linear.nodes[-1])
        x = narrow_x(graph, linear, name, dtype, self._narrowed)
        if linear.spatial:
            x = put("Transpose", [x], f"{name}/features_last", dtype, perm=(0, *range(2, last + 1), 1))
        weight, bias = self._constants(graph, linear)
        flipped = put("Transpose", [weight], f"{name}/transpose", dtype, perm=(1, 0))
        y = put("MatMul", [x, flipped], f"{name}/product", dtype)
        if bias is not None:
            y = put("Add", [y, bias], f"{name}/sum", dtype)
        if linear.spatial:
            y = put("Transpose", [y], f"{name}/features_first", dtype, perm=(0, last, *range(1, last)))
        if linear.dtype != dtype:
            narrow, y = y, put("Cast", [y], f"{name}/wide", linear.dtype, to=int(linear.dtype))
            self._narrowed[y] = narrow
        take_over(output, y)
        graph.remove(linear.nodes, safe=True)

    def _constants(self, graph: ir.Graph, linear: Linear) -> tuple[ir.Value, ir.Value | None]:
        """Returns the lazy initializers `<linear>.weight` [N, K] and `<linear>.bias` [N]."""
        stored, bias, dtype = linear.weight.const_value, linear.bias, self._dtype
        assert stored is not None
        made = None
        if bias is not None and (tensor := bias.const_value) is not None:
            made = lazy_initializer(
                f"{linear.name}.bias",
                linear.shape[:1],
                dtype,
                lambda: cast_weight(str(bias.name), tensor.numpy().reshape(-1), dtype),
            )
        weight = lazy_initializer(
            f"{linear.name}.weight", linear.shape, dtype, lambda: linear.rounded(stored, dtype)
        )
        for value in filter(None, (made, weight)):
            graph.register_initializer(value)
            assert value.const_value is not None
            self.weights[str(value.name)] = value.const_value
        return weight, made


def narrow_x(
    graph: ir.Graph, linear: Linear, name: str, dtype: ir.DataType, narrowed: dict[ir.Value, ir.Value]
) -> ir.Value:
    """Returns X in the packed type. The Cast is placed before the first linear that reads X, so that the others can read its
    result too.

    name: of the linear; narrowed: maps each X to its Cast in the packed type; a new Cast is added to it.
    """
    x = linear.x
    if linear.dtype == dtype:
        return x
    if x not in narrowed:
        narrowed[x] = insert_cast(graph, linear.product, x, f"{name}/narrow", dtype)
    return narrowed[x]


def make_room(graph: ir.Graph, linears: set[str]) -> None:
    """Rename values with the name of a constant of these linears, such as the stored weight or an exporter's copy of a
    bias."""
    made = (value for node in ir.traversal.RecursiveGraphIterator(graph) for value in node.outputs)
    values = (*graph.initializers.values(), *made)
    for value in [value for value in values if linears & owners_of(str(value.name))]:
        stored = value.is_initializer()
        if stored:
            graph.initializers.pop(str(value.name))
        value.name = f"{value.name}/before"
        if stored:
            graph.register_initializer(value)
