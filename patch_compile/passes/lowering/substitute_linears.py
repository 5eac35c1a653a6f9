"""Rewrites products of an exported graph, so that the lowering passes find the checkpoint's linears in them by name."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import onnx_ir as ir
from numpy.typing import NDArray

from patch_compile.onnx_io.proto import STANDARD_DOMAINS
from patch_compile.onnx_io.write import cast_weight, lazy_initializer
from patch_compile.passes.constants import with_last
from patch_compile.passes.find_linears import lowerable_linears
from patch_compile.passes.linear_node import insert_cast, insert_node, take_over
from patch_compile.passes.linears import Linear
from patch_compile.passes.lowering.normalize_linears import make_room, narrow_x
from patch_compile.passes.lowering.packed_initializers import ReadTensor


@dataclass(frozen=True)
class LinearRows:
    """Rows `start … start + rows` of a product's weight, which are the weight of one linear of the checkpoint."""

    name: str
    start: int
    rows: int

    @property
    def slice(self) -> slice:
        return slice(self.start, self.start + self.rows)


@dataclass(frozen=True)
class Product:
    """A product of the graph with the linears that it computes, which are stacked in its weight."""

    linear: Linear
    parts: tuple[LinearRows, ...]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(part.name for part in self.parts)


class SubstituteLinearsPass(ir.passes.InPlacePass):
    """MatMul or Gemm of an exporter -> `MatMul(X, Transpose(W))` (+ b), W an initializer [N, K] named `<linear>.weight`.

    1. Products without a linear that is lowered keep their nodes.
    2. A product of several linears becomes a product for each linear, and a Concat of their outputs. The bias after it is
       divided with it. The Concat is left out if a Split into the same linears is its only reader.
    3. A linear of such a product that is not lowered becomes a MatMul with its own weight.
    4. If X has another type than the packed weights, X is cast to their type, and Y back.
    """

    def __init__(
        self, products: Sequence[Product], lowered: Collection[str], read: ReadTensor, dtype: ir.DataType
    ) -> None:
        """products: in the model that the pass is called with; lowered: linears that are not compiled dense; read: returns
        the weight `[N, K]` of a linear by its tensor name; dtype: FLOAT16 or BFLOAT16, the type of packed weights."""
        super().__init__()
        self.joined: list[ir.Node] = []  # the Concats
        self.biases: dict[str, ir.TensorProtocol] = {}
        self._products = [product for product in products if {*lowered} & {*product.names}]
        self._lowered = lowered
        self._read = read
        self._dtype = dtype
        self._narrowed: dict[ir.Value, ir.Value] = {}

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Rewrite each product in graph order."""
        old = [product.linear.weight for product in self._products]
        old += [product.linear.bias for product in self._products if product.linear.bias is not None]
        make_room(model.graph, {name for product in self._products for name in product.names})
        for product in self._products:
            self._rewrite(model.graph, product)
        for value in old:
            if not value.uses() and value.is_initializer():
                model.graph.initializers.pop(str(value.name))
        return ir.passes.PassResult(model, modified=bool(self._products))

    def ensures(self, model: ir.Model) -> None:
        """Raise PostconditionError if the lowering passes cannot find a linear."""
        expected = {name for product in self._products for name in product.names} & {*self._lowered}
        lost = sorted(expected - lowerable_linears(model).keys())
        if lost:
            raise ir.passes.PostconditionError(f"linears are lost: {lost[:3]}")

    def _rewrite(self, graph: ir.Graph, product: Product) -> None:
        """Replace a product by a product for each of its linears, see the rules of the class."""
        linear = product.linear
        nodes, bias, constants = linear.nodes, linear.bias, linear.path
        if len(product.parts) == 1 and len(nodes) > 1:
            # The Add after a single linear stays unchanged: passes that fuse it know where it lies.
            nodes, bias = nodes[:1], None
        outputs = [self._one(graph, product, part, nodes[-1], bias) for part in product.parts]
        before = nodes[-1].outputs[0]
        split = _split_of(before, [part.rows for part in product.parts])
        if split is not None or len({value.dtype for value in outputs}) > 1:
            outputs = [_cast(graph, nodes[-1], value, linear.dtype) for value in outputs]
        if split is not None:
            for after, made in zip(split.outputs, outputs, strict=True):
                take_over(after, made)
            graph.remove(split, safe=True)
        else:
            made = outputs[0] if len(outputs) == 1 else self._join(graph, nodes[-1], outputs)
            take_over(before, _cast(graph, nodes[-1], made, linear.dtype))
        graph.remove(nodes, safe=True)
        for node in constants:
            if node.graph is graph and not any(made.uses() for made in node.outputs):
                graph.remove(node, safe=True)

    def _join(self, graph: ir.Graph, place: ir.Node, outputs: Sequence[ir.Value]) -> ir.Value:
        """Insert a Concat of the outputs of linears before `place`, the last node of their product."""
        dtype, whole = outputs[0].dtype, place.outputs[0]
        assert dtype is not None
        joined = insert_node(graph, place, "Concat", outputs, f"{whole.name}/joined", dtype, axis=-1)
        joined.shape = whole.shape
        concat = joined.producer()
        assert concat is not None
        self.joined.append(concat)
        return joined

    def _one(
        self, graph: ir.Graph, product: Product, part: LinearRows, place: ir.Node, bias: ir.Value | None
    ) -> ir.Value:
        """Insert the product of one linear before `place`, and return its output, in the type of its weight."""
        linear = product.linear
        packed = part.name in self._lowered
        dtype = self._dtype if packed else linear.dtype
        put = partial(insert_node, graph, place)
        if packed:
            x = narrow_x(graph, linear, product.names[0], dtype, self._narrowed)
            weight = self._weight(graph, part, (part.rows, linear.shape[1]), dtype)
            right = put("Transpose", [weight], f"{part.name}/transpose", dtype, perm=(1, 0))
        else:
            x, right = linear.x, self._weight(graph, part, (linear.shape[1], part.rows), dtype)
        y = put("MatMul", [x, right], f"{part.name}/product", dtype)
        y.shape = with_last(linear.output.shape, part.rows)
        if bias is not None:
            y = put("Add", [y, self._bias(graph, part, bias, dtype)], f"{part.name}/sum", dtype)
            y.shape = with_last(linear.output.shape, part.rows)
        return y

    def _weight(
        self, graph: ir.Graph, part: LinearRows, shape: tuple[int, int], dtype: ir.DataType
    ) -> ir.Value:
        name, transposed = f"{part.name}.weight", part.name not in self._lowered

        def make() -> NDArray[Any]:
            weight = self._read(name)
            return cast_weight(name, weight.T if transposed else weight, dtype)

        value = lazy_initializer(name, shape, dtype, make)
        graph.register_initializer(value)
        return value

    def _bias(self, graph: ir.Graph, part: LinearRows, bias: ir.Value, dtype: ir.DataType) -> ir.Value:
        stored, name = bias.const_value, f"{part.name}.bias"
        assert stored is not None

        def make() -> NDArray[Any]:
            return cast_weight(str(bias.name), stored.numpy().reshape(-1)[part.slice], dtype)

        value = lazy_initializer(name, (part.rows,), dtype, make)
        graph.register_initializer(value)
        assert value.const_value is not None
        self.biases[name] = value.const_value
        return value


def _cast(graph: ir.Graph, place: ir.Node, value: ir.Value, dtype: ir.DataType) -> ir.Value:
    """Returns a value in another type, by a Cast before `place`; the value itself if it has the type."""
    if value.dtype == dtype:
        return value
    return insert_cast(graph, place, value, f"{value.name}/wide", dtype)


def _split_of(output: ir.Value, rows: Sequence[int]) -> ir.Node | None:
    """Returns the Split that divides a value's last axis into these rows and is its only reader; None if there is no such
    Split."""
    if output.is_graph_output() or len(output.uses()) != 1 or len(rows) < 2:
        return None
    (split,) = output.consumers()
    axis = split.attributes.get_int("axis", 0)
    rank = len(output.shape) if output.shape is not None else None
    if split.op_type != "Split" or split.domain not in STANDARD_DOMAINS or len(split.outputs) != len(rows):
        return None
    if axis not in (-1, None if rank is None else rank - 1):
        return None
    return split if _sizes(split, sum(rows)) == [*rows] else None


def _sizes(split: ir.Node, whole: int) -> list[int] | None:
    if len(split.inputs) > 1 and (sizes := split.inputs[1]) is not None:
        tensor = sizes.const_value
        return None if tensor is None else [int(size) for size in tensor.numpy()]
    count = len(split.outputs)
    return [whole // count] * count if whole % count == 0 else None
