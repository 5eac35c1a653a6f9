"""Constants of a PatchLinear node, packed when they are written and not before."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from masklearn.masks.kinds.base import TileKind
from masklearn.masks.kinds.table import DENSE
from masklearn.masks.linear_mask import LinearMask
from patch_compile.errors import InvariantError
from patch_compile.packing.checks import check_packed
from patch_compile.packing.format import PackedLinear, codes_together, pack_together
from patch_compile.packing.function import tensor_names
from patch_compile.packing.index import csr_index
from patch_compile.packing.joint import gated_panels, stacked_panels
from patch_compile.packing.slab_kinds import SLAB_K, kinds_among, numbers_of, slab_kinds
from patch_compile.passes.linear_node import LinearNode
from patch_compile.plan.lowering import LinearPlan

__all__ = ["ReadTensor", "joint_bias", "packed_initializers"]

ReadTensor = Callable[[str], NDArray[Any]]


def packed_initializers(
    linear: LinearNode,
    plans: Sequence[LinearPlan],
    masks: Mapping[str, LinearMask],
    read: ReadTensor,
    dtype: ir.DataType,
) -> tuple[list[ir.Value], NDArray[np.int32], tuple[TileKind, ...]]:
    """Returns `<node>.dense|sparse|meta|…`, the index and the kinds of slabs: gate and up alternate by panel, linears that
    share X are stacked.

    The index is made now. The tensors are packed, and compared with `W∘M` bit for bit, when the first of them is written.
    They are freed after the last, so only the weights of one node are in memory at a time.
    """
    rows = plans[0].panel_rows
    codes = codes_together([slab_kinds(masks[plan.name], rows) for plan in plans], _panels(linear, rows))
    kinds = kinds_among([codes])
    index = csr_index(numbers_of(codes, kinds), len(kinds))
    shapes = _shapes(plans, kinds, rows, dtype)
    once = _PackedOnce(partial(_pack, linear, plans, masks, read, index), len(shapes))
    tensors: list[ir.TensorProtocol] = [
        _lazy(f"{linear.name}.{part}", partial(once.take, number, kind), kind, shape)
        for number, (part, kind, shape) in enumerate(shapes)
    ]
    return [_value(tensor) for tensor in tensors], index, kinds


def _shapes(
    plans: Sequence[LinearPlan], kinds: Sequence[TileKind], rows: int, dtype: ir.DataType
) -> list[tuple[str, ir.DataType, tuple[int, int]]]:
    """Returns name, type and shape of each tensor, in their order."""
    count = {kind.name: sum(plan.slabs.get(kind.name, 0) for plan in plans) for kind in kinds}
    found = [(dtype, (count[DENSE.name], rows * SLAB_K))]
    for kind in kinds[1:]:
        found.append((dtype, (count[kind.name], rows * SLAB_K * kind.kept // kind.group)))
        found.append((ir.DataType.INT32, (count[kind.name], rows * 2)))
    return [(name, *one) for name, one in zip(tensor_names(kinds), found, strict=True)]


def joint_bias(linear: LinearNode, read: ReadTensor, dtype: ir.DataType) -> ir.Value:
    """Returns `<node>.bias`, the biases of several linears in the order of their rows in Y. Read when it is written.

    The bias of a gate and its up is `[2 N]`, gate first.
    """
    names = [str(bias.name) for bias in linear.biases]
    sizes = [n for n, _ in linear.shapes] if linear.gated else linear.rows

    def make() -> ir.TensorProtocol:
        whole = np.zeros(sum(sizes), dtype.numpy())
        for name, start in zip(names, np.cumsum([0, *sizes[:-1]]), strict=True):
            values = read(name)
            whole[start : start + len(values)] = values
        return ir.Tensor(whole, dtype=dtype)

    return _value(_lazy(f"{linear.name}.bias", make, dtype, (sum(sizes),)))


def _lazy(
    name: str, make: Callable[[], ir.TensorProtocol], dtype: ir.DataType, shape: tuple[int, ...]
) -> ir.LazyTensor:
    return ir.LazyTensor(make, dtype=dtype, shape=ir.Shape(shape), name=name, cache=False)


def _value(tensor: ir.TensorProtocol) -> ir.Value:
    return ir.Value(
        name=tensor.name,
        shape=ir.Shape(tensor.shape.numpy()),
        type=ir.TensorType(tensor.dtype),
        const_value=tensor,
    )


def _pack(
    linear: LinearNode,
    plans: Sequence[LinearPlan],
    masks: Mapping[str, LinearMask],
    read: ReadTensor,
    index: NDArray[np.int32],
) -> PackedLinear:
    weights = [read(f"{plan.name}.weight").view(np.uint16) for plan in plans]
    parts = [(weight, masks[plan.name]) for weight, plan in zip(weights, plans, strict=True)]
    panels = _panels(linear, plans[0].panel_rows)
    packed = pack_together(parts, plans[0].panel_rows, panels)
    for plan, part, own in zip(plans, parts, panels, strict=True):
        check_packed(plan.name, packed, *part, own)
    if not np.array_equal(packed.index, index):
        raise InvariantError(f"{linear.name}: the index announced and the index packed differ")
    return packed


def _panels(linear: LinearNode, panel_rows: int) -> list[NDArray[np.int64]]:
    rows = [n for n, _ in linear.shapes]
    return gated_panels(rows[0], panel_rows) if linear.gated else stacked_panels(rows, panel_rows)


class _PackedOnce:
    """Packs the weights of a node when the first of its tensors is written, and frees them after the last."""

    def __init__(self, make: Callable[[], PackedLinear], tensors: int) -> None:
        self._make, self._tensors = make, tensors
        self._packed: PackedLinear | None = None
        self._taken: set[int] = set()

    def take(self, number: int, dtype: ir.DataType) -> ir.TensorProtocol:
        if self._packed is None:
            self._packed = self._make()
        array = self._packed.tensors[number]
        self._taken.add(number)
        if len(self._taken) == self._tensors:
            self._packed, self._taken = None, set()
        return ir.Tensor(array.view(dtype.numpy()), dtype=dtype)
