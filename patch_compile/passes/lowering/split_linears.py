"""Rewrites linears into a few dense and 2:4 products of standard ops that TensorRT can't merge. Their weights are parts of
the masked weight, cut only when they are written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, NamedTuple

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
from patch_compile.planning.split import PART, Split, SplitCost, SplitGroup, check_split, plan_split


class SplitLinearsPass(passes.InPlacePass):
    """`Y = X Wᵀ (+ b)` -> products of groups of rows, dense MatMul and 2:4 Conv, for each linear planned as `split`.

    1. X is [tokens, K] for all parts. `plan_split` chooses the rows of W in each group, and the k of a group that are 2:4.
    2. A dense part is MatMul(X[:, K_d], W_dᵀ), and a 2:4 part is Conv(X[:, K_s, 1, 1], W_s[:, :, 1, 1]). TensorRT looks
       for 2:4 along the input channels of a 1×1 convolution, and does not merge it with a MatMul of the same X. The parts
       of a group are added.
    3. The groups are concatenated, their rows reordered if needed, and the bias is added.
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
        """read: returns the values `[N, K]` of a weight, by name, in the graph's 16-bit type; cost: minimised by groups."""
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
            check_split(name, split, mask.tiles)
            self.splits[name] = split
            _rewrite(model.graph, found[name], split, self._initializers(name, split))
        return passes.PassResult(model, modified=bool(self._planned))

    def ensures(self, model: ir.Model) -> None:
        """Each planned linear has the products of its split, and its whole weight is removed."""
        found = [_linear_of(node) for node in model.graph if PART in node.metadata_props]
        for name in self._planned:
            wanted = self.splits[name].products
            if found.count(name) != wanted:
                raise passes.PostconditionError(
                    f"{name} is computed by {found.count(name)} products, not {wanted}"
                )
            if f"{name}.weight" in model.graph.initializers:
                raise passes.PostconditionError(f"the weight of {name} remains in addition to its parts")

    def _initializers(self, name: str, split: Split) -> dict[_Part, ir.Value]:
        return _initializers(name, split, self._masks[name], self._read, self._dtype)


def _linear_of(node: ir.Node) -> str:
    return str(node.name).rpartition("/split/")[0]


def _rewrite(graph: ir.Graph, linear: Linear, split: Split, weights: Mapping[_Part, ir.Value]) -> None:
    """Replace the nodes of a linear by the products of its split. weights: the weights of the products."""
    last = linear.output.producer()
    assert last is not None
    for value in weights.values():
        graph.register_initializer(value)
    into = _Nodes(graph, last, linear)
    tokens = into.add("Reshape", [linear.x, into.ints("rows", [-1, split.shape[1]])], "rows")
    groups = [_group(into, tokens, split, group, i, weights) for i, group in enumerate(split.groups)]
    y = groups[0] if len(groups) == 1 else into.add("Concat", groups, "groups", {"axis": 1})
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


def _group(
    into: _Nodes,
    tokens: ir.Value,
    split: Split,
    group: SplitGroup,
    number: int,
    weights: Mapping[_Part, ir.Value],
) -> ir.Value:
    """Adds the nodes of a group. Returns [tokens, rows of the group]: its dense part, its 2:4 part, or their sum."""
    parts = []
    dense, sparse = _Part(number, "dense"), _Part(number, "sparse")
    if dense in weights:
        x = into.columns(tokens, split.dense_k(group), split.shape[1], f"{dense}")
        transposed = into.add("Transpose", [weights[dense]], f"{dense}/transpose", {"perm": [1, 0]})
        parts.append(into.add("MatMul", [x, transposed], f"{dense}", part="dense"))
    if sparse in weights:
        x = into.columns(tokens, split.sparse_k(group), split.shape[1], f"{sparse}")
        pixels = into.ints("pixel", [2, 3])
        x = into.add("Unsqueeze", [x, pixels], f"{sparse}/pixel")
        y = into.add("Conv", [x, weights[sparse]], f"{sparse}", {"kernel_shape": [1, 1]}, part="sparse")
        parts.append(into.add("Squeeze", [y, pixels], f"{sparse}/row"))
    return parts[0] if len(parts) == 1 else into.add("Add", parts, f"{number}/sum")


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

    def columns(self, x: ir.Value, k: NDArray[np.int64], in_features: int, part: str) -> ir.Value:
        """Returns `x[:, k]`, which is x itself if k is all columns."""
        if len(k) == in_features:
            return x
        if k[-1] - k[0] == len(k) - 1:
            bounds = [self.ints(f"{part}.{end}", [at]) for end, at in (("from", k[0]), ("to", k[-1] + 1))]
            return self.add("Slice", [x, *bounds, self.ints("columns", [1])], f"{part}/columns")
        return self.add("Gather", [x, self.ints(f"{part}.columns", k)], f"{part}/columns", {"axis": 1})


class _Part(NamedTuple):
    """One product of a split linear: the number of its group, and its kind."""

    group: int
    kind: Literal["dense", "sparse"]

    def __str__(self) -> str:
        """Returns its form in the names of nodes and weights: `0/sparse`."""
        return f"{self.group}/{self.kind}"


def _initializers(
    linear: str, split: Split, mask: LinearMask, read: ReadTensor, dtype: ir.DataType
) -> dict[_Part, ir.Value]:
    """Returns the weight of each part that is not empty: dense `[rows, K_d]`, 2:4 `[rows, K_s, 1, 1]`.

    The linear's weight is read and masked when the first part is written, and freed after the last. The written values
    of 2:4 parts are checked for 2:4 along K.
    """
    cuts = {part: cut for part, cut in _cuts(split).items() if len(cut[1])}
    once = MadeOnce(lambda: masked_weight(read(f"{linear}.weight"), mask.keep()), len(cuts))
    made = {}
    for part, (rows, k) in cuts.items():
        name = f"{linear}.split.{part}"
        shape = (len(rows), len(k), *(1, 1) * (part.kind == "sparse"))
        made[part] = lazy_initializer(name, shape, dtype, partial(_make, once, name, part, rows, k))
    return made


def _cuts(split: Split) -> dict[_Part, tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Returns rows and k of each part."""
    cuts = {}
    for number, group in enumerate(split.groups):
        rows = split.rows(group)
        cuts[_Part(number, "dense")] = rows, split.dense_k(group)
        cuts[_Part(number, "sparse")] = rows, split.sparse_k(group)
    return cuts


def _make(
    once: MadeOnce[NDArray[Any]],
    name: str,
    part: _Part,
    rows: NDArray[np.int64],
    k: NDArray[np.int64],
) -> NDArray[Any]:
    values = once.take(part)[np.ix_(rows, k)]
    if part.kind == "sparse":
        check_two_four(name, values)
        values = values[:, :, None, None]
    return values
