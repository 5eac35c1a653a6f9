"""Rewrites linears into a few dense and 2:4 products of standard ops that TensorRT can't merge. Their weights are parts of
the masked weight, cut only when they are written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir import passes

from masklearn.masks.linear_mask import LinearMask
from masklearn.model.prune import masked_weight
from patch_compile.onnx_io.write import MadeOnce, lazy_initializer
from patch_compile.packing.checks import check_two_four
from patch_compile.passes.find_linears import lowerable_linears
from patch_compile.passes.linear_node import take_over
from patch_compile.passes.linears import Linear
from patch_compile.passes.lowering.gather_linears import check_planned
from patch_compile.passes.lowering.packed_initializers import ReadTensor
from patch_compile.planning.lowering import LinearPlan
from patch_compile.planning.split import PART, Split, SplitCost, SplitPart, plan_split


class SplitLinearsPass(passes.InPlacePass):
    """`Y = X Wᵀ (+ b)` -> products of some rows of W each, dense MatMul and 2:4 Conv, for each linear planned as `split`.

    1. X is [tokens, K] for all parts. `plan_split` chooses the rows of W in each part.
    2. A dense part is MatMul(X, W_dᵀ), and a 2:4 part is Conv(X[:, :, 1, 1], W_s[:, :, 1, 1]). TensorRT looks for 2:4 along
       the input channels of a 1×1 convolution, and does not merge it with a MatMul of the same X.
    3. The parts are concatenated, their rows reordered if needed, and the bias is added.
    4. An activation or a residual that follows stays an operation of the graph.
    """

    def __init__(
        self,
        plan: Mapping[str, LinearPlan],
        masks: Mapping[str, LinearMask],
        read: ReadTensor,
        dtype: ir.DataType,
        cost: SplitCost | None = None,
    ) -> None:
        """read: returns the values `[N, K]` of a weight, by name, in the graph's 16-bit type; cost: minimised by splits."""
        super().__init__()
        self.splits: dict[str, Split] = {}  # linear → split, filled by the pass
        self._planned = {name: linear.shape for name, linear in plan.items() if linear.lowering == "split"}
        self._quantised = [name for name in self._planned if plan[name].weight_type.quantised]
        self._masks = masks
        self._read = read
        self._dtype = dtype
        self._cost = cost or SplitCost()

    def requires(self, model: ir.Model) -> None:
        """Every linear planned as `split` is in the graph, with the planned shape and type, and has 16-bit weights."""
        for name in self._quantised:
            raise passes.PreconditionError(f"{name} has quantised weights, which no ordinary product keeps")
        check_planned(model, self._planned, self._dtype)

    def call(self, model: ir.Model) -> passes.PassResult:
        """Rewrite the graph. `modified` is False if no linear is planned as `split`."""
        found = lowerable_linears(model)
        for name in self._planned:
            mask = self._masks[name]
            split = plan_split(mask.tiles, mask.shape, mask.tile, self._cost)
            self.splits[name] = split
            weights = _initializers(name, split, mask, self._read, self._dtype)
            _rewrite(model.graph, found[name], split, weights)
        return passes.PassResult(model, modified=bool(self._planned))

    def ensures(self, model: ir.Model) -> None:
        """Each planned linear has the products of its split, and its whole weight is removed."""
        found = [_linear_of(node) for node in model.graph if PART in node.metadata_props]
        for name in self._planned:
            wanted = len(self.splits[name].parts)
            if found.count(name) != wanted:
                raise passes.PostconditionError(
                    f"{name} is computed by {found.count(name)} products, not {wanted}"
                )
            if f"{name}.weight" in model.graph.initializers:
                raise passes.PostconditionError(f"the weight of {name} remains in addition to its parts")


def _linear_of(node: ir.Node) -> str:
    return str(node.name).rpartition("/split/")[0]


def _rewrite(graph: ir.Graph, linear: Linear, split: Split, weights: Sequence[ir.Value]) -> None:
    """Replace the nodes of a linear by the products of its split. weights: of its parts."""
    last = linear.output.producer()
    assert last is not None
    for value in weights:
        graph.register_initializer(value)
    into = _Nodes(graph, last, linear)
    tokens = into.add("Reshape", [linear.x, into.ints("rows", [-1, split.shape[1]])], "rows")
    parts = [
        _part(into, tokens, part, _name(number, part), weight)
        for number, (part, weight) in enumerate(zip(split.parts, weights, strict=True))
    ]
    y = parts[0] if len(parts) == 1 else into.add("Concat", parts, "parts", {"axis": 1})
    if split.row_order is not None:
        y = into.add("Gather", [y, into.ints("order", split.row_order)], "order", {"axis": 1})
    leading = into.add("Shape", [linear.x], "leading", {"end": -1}, ir.DataType.INT64)
    whole = [leading, into.ints("out_features", [split.shape[0]])]
    shape = into.add("Concat", whole, "shape", {"axis": 0}, ir.DataType.INT64)
    y = into.add("Reshape", [y, shape], "output")
    if linear.bias is not None:
        y = into.add("Add", [y, linear.bias], "bias")
    path = linear.path
    take_over(linear.output, y)
    graph.remove([*linear.nodes, *path], safe=True)
    graph.initializers.pop(str(linear.weight.name))


def _name(number: int, part: SplitPart) -> str:
    """Returns the form of a part in the names of nodes and weights: `0/sparse`."""
    return f"{number}/{part.kind}"


def _part(into: _Nodes, tokens: ir.Value, part: SplitPart, name: str, weight: ir.Value) -> ir.Value:
    """Adds the nodes of a part. Returns its product [tokens, rows of the part]."""
    if part.kind == "dense":
        transposed = into.add("Transpose", [weight], f"{name}/transpose", {"perm": [1, 0]})
        return into.add("MatMul", [tokens, transposed], name, part="dense")
    pixels = into.ints("pixel", [2, 3])
    x = into.add("Unsqueeze", [tokens, pixels], f"{name}/pixel")
    y = into.add("Conv", [x, weight], name, {"kernel_shape": [1, 1]}, part="sparse")
    return into.add("Squeeze", [y, pixels], f"{name}/row")


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
        name = f"{self.linear.name}.split.{what}"
        if name not in self.graph.initializers:
            array = np.asarray(values, np.int64)
            kind, shape = ir.TensorType(ir.DataType.INT64), ir.Shape(array.shape)
            value = ir.Value(name=name, shape=shape, type=kind, const_value=ir.tensor(array, name=name))
            self.graph.register_initializer(value)
        return self.graph.initializers[name]


def _initializers(
    linear: str, split: Split, mask: LinearMask, read: ReadTensor, dtype: ir.DataType
) -> list[ir.Value]:
    """Returns the weights of the parts: dense `[rows, K]`, 2:4 `[rows, K, 1, 1]`.

    The linear's weight is read and masked when the first part is written, and freed after the last. The written values
    of 2:4 parts are checked for 2:4 along K.
    """
    once = MadeOnce(lambda: masked_weight(read(f"{linear}.weight"), mask.keep()), len(split.parts))
    made = []
    for number, part in enumerate(split.parts):
        name = f"{linear}.split.{_name(number, part)}"
        shape = (len(part.rows), split.shape[1], *(1, 1) * (part.kind == "sparse"))
        made.append(lazy_initializer(name, shape, dtype, partial(_make, once, name, part)))
    return made


def _make(once: MadeOnce[NDArray[Any]], name: str, part: SplitPart) -> NDArray[Any]:
    values = once.take(name)[part.rows]
    if part.kind == "sparse":
        check_two_four(name, values)
        values = values[:, :, None, None]
    return values
