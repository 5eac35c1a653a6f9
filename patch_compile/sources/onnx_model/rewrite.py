"""Rewrites linears of any form into the form that GatherLinearsPass takes, in the 16-bit type of their packed weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import onnx_ir as ir

from patch_compile.onnx_io.write import cast_weight
from patch_compile.passes.find_linears import find_linears
from patch_compile.sources.onnx_model.linears import OnnxLinear
from patch_compile.sources.onnx_model.names import owners_of
from patch_compile.sources.onnx_model.weights import read_rounded

__all__ = ["NormalizeLinearsPass", "insert_node", "make_room"]


class NormalizeLinearsPass(ir.passes.InPlacePass):
    """MatMul, Gemm or 1×1 Conv -> `MatMul(X, Transpose(W))` (+ b), W an initializer [N, K] named `<linear>.weight`.

    1. W and b are read through their Casts and Transposes, and get the 16-bit type; b becomes `<linear>.bias` [N].
    2. If X has another type, a Cast is inserted before the first linear that reads X, and a Cast of Y back after each
       linear. The two Casts are omitted if Y goes directly into another linear.
    3. For a convolution, Transposes before and after the linear move the features of X [B, K, ...] last and Y's back.
    """

    def __init__(self, linears: Mapping[str, OnnxLinear], dtype: ir.DataType) -> None:
        """linears: found by `find_onnx_linears` in the model that the pass is called with; dtype: FLOAT16 or BFLOAT16."""
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
        """Raise PostconditionError if the lowering passes cannot find a linear, or find it with a shared weight."""
        sites = find_linears(model)
        lost = [name for name in self._linears if name not in sites or sites[name].shared]
        if lost:
            raise ir.passes.PostconditionError(f"linears are lost: {lost[:3]}")

    def _rewrite(self, graph: ir.Graph, linear: OnnxLinear) -> None:
        put = partial(insert_node, graph, linear.nodes[-1])
        x = self._narrow_x(graph, linear)
        if linear.spatial:
            x = put(
                "Transpose", [x], f"{linear.name}/features_last", self._dtype, perm=_features_last(linear)
            )
        weight, bias = self._constants(graph, linear)
        flipped = put("Transpose", [weight], f"{linear.name}/transpose", self._dtype, perm=(1, 0))
        y = put("MatMul", [x, flipped], f"{linear.name}/product", self._dtype)
        if bias is not None:
            y = put("Add", [y, bias], f"{linear.name}/sum", self._dtype)
        if linear.spatial:
            y = put(
                "Transpose", [y], f"{linear.name}/features_first", self._dtype, perm=_features_first(linear)
            )
        if linear.dtype != self._dtype:
            narrow, y = y, put("Cast", [y], f"{linear.name}/wide", linear.dtype, to=int(linear.dtype))
            self._narrowed[y] = narrow
        _take_over(graph, linear, y)

    def _narrow_x(self, graph: ir.Graph, linear: OnnxLinear) -> ir.Value:
        """Returns X in the packed type. The Cast is before the first linear that reads X, so that the others can read it
        too."""
        if linear.dtype == self._dtype:
            return linear.x
        if linear.x not in self._narrowed:
            narrow = insert_node(
                graph,
                linear.nodes[0],
                "Cast",
                [linear.x],
                f"{linear.name}/narrow",
                self._dtype,
                to=int(self._dtype),
            )
            narrow.shape = linear.x.shape
            self._narrowed[linear.x] = narrow
        return self._narrowed[linear.x]

    def _constants(self, graph: ir.Graph, linear: OnnxLinear) -> tuple[ir.Value, ir.Value | None]:
        """Returns the lazy initializers `<linear>.weight` [N, K] and `<linear>.bias` [N]."""
        stored, name = linear.weight.const_value, f"{linear.name}.weight"
        assert stored is not None
        bias = None
        if linear.bias is not None and (tensor := linear.bias.const_value) is not None:
            bias = self._initializer(
                graph,
                f"{linear.name}.bias",
                linear.shape[:1],
                partial(_bias, linear.bias, tensor, self._dtype),
            )
        return self._initializer(
            graph, name, linear.shape, partial(_weight, linear, stored, self._dtype)
        ), bias

    def _initializer(
        self, graph: ir.Graph, name: str, shape: tuple[int, ...], make: Callable[[], ir.TensorProtocol]
    ) -> ir.Value:
        self.weights[name] = tensor = ir.LazyTensor(
            make, dtype=self._dtype, shape=ir.Shape(shape), name=name, cache=False
        )
        value = ir.Value(
            name=name, shape=ir.Shape(shape), type=ir.TensorType(self._dtype), const_value=tensor
        )
        graph.register_initializer(value)
        return value


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


def _weight(linear: OnnxLinear, stored: ir.TensorProtocol, dtype: ir.DataType) -> ir.TensorProtocol:
    return ir.Tensor(read_rounded(linear, stored, dtype), dtype=dtype, name=f"{linear.name}.weight")


def _bias(value: ir.Value, stored: ir.TensorProtocol, dtype: ir.DataType) -> ir.TensorProtocol:
    return ir.Tensor(cast_weight(str(value.name), stored.numpy().reshape(-1), dtype), dtype=dtype)


def insert_node(
    graph: ir.Graph,
    place: ir.Node,
    op_type: str,
    inputs: Sequence[ir.Value],
    name: str,
    dtype: ir.DataType,
    **attributes: int | Sequence[int],
) -> ir.Value:
    """Insert a node before `place`, and return its output."""
    node = ir.node(op_type, list(inputs), attributes=attributes, name=name)
    output = node.outputs[0]
    output.name, output.type = name, ir.TensorType(dtype)
    graph.insert_before(place, node)
    return output


def _features_last(linear: OnnxLinear) -> tuple[int, ...]:
    return (0, *range(2, 2 + linear.spatial), 1)


def _features_first(linear: OnnxLinear) -> tuple[int, ...]:
    return (0, 1 + linear.spatial, *range(1, 1 + linear.spatial))


def _take_over(graph: ir.Graph, linear: OnnxLinear, y: ir.Value) -> None:
    """Replace the linear's output by `y`, under the same name, and remove the linear's nodes."""
    y.name, y.shape = linear.output.name, linear.output.shape
    linear.output.name = f"{y.name}/before"
    ir.convenience.replace_all_uses_with(linear.output, y, replace_graph_outputs=True)
    graph.remove(linear.nodes, safe=True)
