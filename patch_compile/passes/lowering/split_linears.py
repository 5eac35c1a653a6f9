"""Rewrites linears into a few dense and 2:4 products of standard ops that TensorRT can't merge. Their weights are parts of
the masked weight, cut only when they are written."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir import passes

from masklearn.masks.linear_mask import LinearMask
from masklearn.model.prune import masked_weight
from masklearn.quant.grid import Grid
from patch_compile.onnx_io.write import MadeOnce, lazy_initializer
from patch_compile.packing.checks import check_two_four
from patch_compile.passes.constants import add_constant
from patch_compile.passes.find_linears import lowerable_linears
from patch_compile.passes.linear_node import insert_rounding, take_over
from patch_compile.passes.linears import Linear
from patch_compile.passes.lowering.gather_linears import check_planned
from patch_compile.passes.lowering.packed_initializers import ReadTensor
from patch_compile.planning.lowering import LinearPlan
from patch_compile.planning.split import PART, Kind, Split, SplitCost, SplitPart, plan_split, usable


class SplitLinearsPass(passes.InPlacePass):
    """`Y = X Wᵀ (+ b)` -> products of some rows of W each, dense MatMul and 2:4 Conv, for each linear planned as `split`.

    1. `plan_split` chooses the rows of W in each part.
    2. A dense part is MatMul of X `[tokens, K]` and W_dᵀ, and a 2:4 part is Conv of X `[tokens, K, 1, 1]` and W_s. TensorRT
       looks for 2:4 along the input channels of a 1×1 convolution, and does not merge it with a MatMul of the same X.
    3. Each part adds its bias. The parts are concatenated, and their rows reordered if needed.
    4. In W8A8, X and W are int8 behind DequantizeLinear, and Y is rounded to int8 too if its scale is known: TensorRT's
       sparse int8 tactics have int8 on both sides. Linears that read the same X with the same scale share its rounding.
    5. An activation or a residual that follows stays an operation of the graph.
    """

    def __init__(
        self,
        plan: Mapping[str, LinearPlan],
        masks: Mapping[str, LinearMask],
        read: ReadTensor,
        dtype: ir.DataType,
        grids: Mapping[str, Grid] | None = None,
    ) -> None:
        """read: returns the values `[N, K]` of a weight by name, in the graph's 16-bit type, or in a type that holds them
        exactly if they lie on a grid; grids: of the linears of type w8a8, with static scales."""
        super().__init__()
        self.splits: dict[str, Split] = {}  # linear → split, filled by the pass
        self._planned = {name: linear for name, linear in plan.items() if linear.lowering == "split"}
        self._masks = masks
        self._read = read
        self._dtype = dtype
        quantised = (name for name, linear in self._planned.items() if linear.weight_type.quantised)
        self._grids = {name: (grids or {})[name] for name in quantised}

    def requires(self, model: ir.Model) -> None:
        """Every linear planned as `split` is in the graph, with the planned shape and type. It has 16-bit weights or static
        scales."""
        for name, grid in self._grids.items():
            if grid.activations is None:
                raise passes.PreconditionError(f"{name} has {grid.type} weights without static scales")
        check_planned(model, {name: linear.shape for name, linear in self._planned.items()}, self._dtype)

    def call(self, model: ir.Model) -> passes.PassResult:
        """Rewrite the graph. `modified` is False if no linear is planned as `split`."""
        tokens: dict[_Rows, ir.Value] = {}
        # In graph order, so that the first reader of an X makes its rows.
        for name, linear in lowerable_linears(model).items():
            if name not in self._planned:
                continue
            mask, grid = self._masks[name], self._grids.get(name)
            cost = SplitCost.of(self._planned[name].weight_type)
            split = plan_split(usable(mask.tiles, grid), mask.shape, mask.tile, cost)
            self.splits[name] = split
            weights = _weights(linear, split, mask, self._read, grid)
            _rewrite(model.graph, linear, split, weights, grid, tokens)
        return passes.PassResult(model, modified=bool(self._planned))

    def ensures(self, model: ir.Model) -> None:
        """Each planned linear has the products of its split, and its whole weight is removed."""
        products = Counter(
            str(node.name).rpartition("/split/")[0] for node in model.graph if PART in node.metadata_props
        )
        for name in self._planned:
            planned = len(self.splits[name].parts)
            if products[name] != planned:
                raise passes.PostconditionError(
                    f"{name} is computed by {products[name]} products, not {planned}"
                )
            if f"{name}.weight" in model.graph.initializers:
                raise passes.PostconditionError(f"the weight of {name} remains in addition to its parts")


def _rewrite(
    graph: ir.Graph,
    linear: Linear,
    split: Split,
    weights: Sequence[ir.Value],
    grid: Grid | None,
    tokens: dict[_Rows, ir.Value],
) -> None:
    """Replace the nodes of a linear by the products of its split.

    weights: of its parts; grid: with static scales, None for 16-bit weights; tokens: X for parts, to which the pass adds.
    """
    for value in weights:
        graph.register_initializer(value)
    scale = grid.activations.input if grid and grid.activations else None
    place = linear.output.producer()
    assert place is not None
    before, into, parts = _Nodes(graph, linear.product, linear), _Nodes(graph, place, linear), []
    for number, (part, weight) in enumerate(zip(split.parts, weights, strict=True)):
        key, kind = _Rows(linear.x, scale, part.kind), part.kind
        if key not in tokens:
            shape = before.ints(f"rows.{kind}", [-1, split.shape[1], *(1, 1) * (kind == "sparse")])
            rows = before.add("Reshape", [linear.x, shape], f"rows/{kind}")
            tokens[key] = before.rounded(rows, scale, f"x/{kind}") if scale else rows
        parts.append(_part(into, tokens[key], part, _name(number, part), weight, grid))
    y = parts[0] if len(parts) == 1 else into.add("Concat", parts, "parts", {"axis": 1})
    if split.row_order is not None:
        y = into.add("Gather", [y, into.ints("order", split.row_order)], "order", {"axis": 1})
    leading = into.add("Shape", [linear.x], "leading", {"end": -1}, ir.DataType.INT64)
    whole = [leading, into.ints("out_features", [split.shape[0]])]
    shape = into.add("Concat", whole, "shape", {"axis": 0}, ir.DataType.INT64)
    y = into.add("Reshape", [y, shape], "output")
    nodes = [*linear.nodes, *linear.path]
    take_over(linear.output, y)
    graph.remove(nodes, safe=True)
    graph.initializers.pop(str(linear.weight.name))
    if linear.bias is not None and not linear.bias.uses():
        graph.initializers.pop(str(linear.bias.name))


def _name(number: int, part: SplitPart) -> str:
    """Returns the form of a part in the names of nodes and weights: `0/sparse`."""
    return f"{number}/{part.kind}"


def _part(
    into: _Nodes, tokens: ir.Value, part: SplitPart, name: str, weight: ir.Value, grid: Grid | None
) -> ir.Value:
    """Adds the nodes of a part. Returns its rows of Y `[tokens, rows of the part]`, in 16 bits.

    Q/DQ stand next to the product, where TensorRT looks for them.
    """
    output = grid.activations.output if grid and grid.activations else None
    if grid:
        weight = into.dequantised(weight, grid.scales[part.rows], name, axis=int(part.kind == "dense"))
    bias = into.bias(name, part.rows)
    if part.kind == "dense":
        if not grid:
            weight = into.add("Transpose", [weight], f"{name}/transpose", {"perm": [1, 0]})
        y = into.add("MatMul", [tokens, weight], name, part="dense")
        y = into.add("Add", [y, *bias], f"{name}/bias") if bias else y
    else:
        y = into.add("Conv", [tokens, weight, *bias], name, {"kernel_shape": [1, 1]}, part="sparse")
    y = into.rounded(y, output, f"{name}/y") if output else y
    return y if part.kind == "dense" else into.add("Squeeze", [y, into.ints("pixel", [2, 3])], f"{name}/row")


class _Rows(NamedTuple):
    """X as the parts of a kind read it: `[tokens, K]`, or `[tokens, K, 1, 1]` for 2:4 parts, rounded by its scale if it has
    a static scale."""

    x: ir.Value
    scale: float | None
    kind: Kind


@dataclass
class _Nodes:
    """Inserts nodes called `<linear>/split/<what>` before `last`."""

    graph: ir.Graph
    last: ir.Node
    linear: Linear

    def add(
        self,
        op_type: str,
        inputs: Sequence[ir.Value],
        what: str,
        attributes: Mapping[str, Any] | None = None,
        dtype: ir.DataType | None = None,
        part: str | None = None,
    ) -> ir.Value:
        """Insert a node and return its output, of the linear's type unless `dtype` is given."""
        name = f"{self.linear.name}/split/{what}"
        node = ir.node(op_type, inputs, attributes or {}, name=name)
        if part is not None:
            node.metadata_props[PART] = part
        self.graph.insert_before(self.last, node)
        made = node.outputs[0]
        made.name, made.type = f"{name}:0", ir.TensorType(dtype or self.linear.dtype)
        return made

    def ints(self, what: str, values: Sequence[int] | NDArray[np.int64]) -> ir.Value:
        """Returns the int64 initializer `<linear>.split.<what>`, made at the first call for this `what`."""
        return self.constant(what, np.asarray(values, np.int64))

    def constant(self, what: str, array: NDArray[Any]) -> ir.Value:
        """Returns the initializer `<linear>.split.<what>`, made at the first call for this `what`."""
        name = f"{self.linear.name}.split.{what}"
        return self.graph.initializers.get(name) or add_constant(self.graph, name, array)

    def rounded(self, value: ir.Value, scale: float, what: str) -> ir.Value:
        """Returns activations rounded to int8 numbers times a scale."""
        return insert_rounding(self.graph, self.last, value, scale, f"{self.linear.name}/split/{what}")

    def dequantised(self, weight: ir.Value, scales: NDArray[np.float32], part: str, axis: int) -> ir.Value:
        """Returns int8 weights times their scales. axis: of the rows of W."""
        each = self.constant(f"{part}.scales", scales.astype(self.linear.dtype.numpy()))
        return self.add("DequantizeLinear", [weight, each], f"{part}/dequantize", {"axis": axis})

    def bias(self, part: str, rows: NDArray[np.int64]) -> list[ir.Value]:
        """Returns the bias of some rows of Y, nothing if the linear has no bias."""
        bias = self.linear.bias
        if bias is None or len(rows) == self.linear.shape[0]:
            return [bias] if bias is not None else []
        stored, dtype, name = bias.const_value, self.linear.dtype, f"{self.linear.name}.split.{part}.bias"
        assert stored is not None
        value = lazy_initializer(name, (len(rows),), dtype, lambda: stored.numpy().reshape(-1)[rows])
        self.graph.register_initializer(value)
        return [value]


def _weights(
    linear: Linear, split: Split, mask: LinearMask, read: ReadTensor, grid: Grid | None
) -> list[ir.Value]:
    """Returns the weights of the parts: dense `[rows, K]`, or integers `[K, rows]`; 2:4 `[rows, K, 1, 1]`.

    The linear's weight is read and masked when the first part is written, and freed after the last. The written values
    of 2:4 parts are checked for 2:4 along K.
    """

    def masked() -> NDArray[Any]:
        weight = masked_weight(read(f"{linear.name}.weight"), mask.keep())
        return grid.integers(weight) if grid else weight

    once = MadeOnce(masked, len(split.parts))

    def make(name: str, part: SplitPart) -> NDArray[Any]:
        values = once.take(name)[part.rows]
        if part.kind == "sparse":
            check_two_four(name, values)
            return values[:, :, None, None]
        return np.ascontiguousarray(values.T) if grid else values

    made = []
    for number, part in enumerate(split.parts):
        name, size = f"{linear.name}.split.{_name(number, part)}", (len(part.rows), split.shape[1])
        shape = (*size, 1, 1) if part.kind == "sparse" else size[::-1] if grid else size
        dtype = ir.DataType.INT8 if grid else linear.dtype
        made.append(lazy_initializer(name, shape, dtype, partial(make, name, part)))
    return made
