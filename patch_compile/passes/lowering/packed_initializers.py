"""Constants of a PatchLinear node, packed when they are written and not before."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from masklearn.masks.linear_mask import LinearMask
from patch_compile.errors import InvariantError
from patch_compile.packing.checks import check_packed
from patch_compile.packing.format import PackedLinear, grid_together, pack_together, sparse_slabs
from patch_compile.packing.index import csr_index
from patch_compile.packing.joint import gated_panels, stacked_panels
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
) -> tuple[list[ir.Value], NDArray[np.int32]]:
    """Returns `<node>.dense|sparse|meta`, and the index: gate and up alternate by panel, linears that share X are stacked.

    The index is made now. The three tensors are packed, and compared with `W∘M` bit for bit, when the first of them is
    written. They are freed after the last, so only the weights of one node are in memory at a time.
    """
    rows = plans[0].panel_rows
    grids = [sparse_slabs(masks[plan.name], rows) for plan in plans]
    index = csr_index(grid_together(grids, _panels(linear, rows)))
    dense, sparse = sum(plan.dense_slabs for plan in plans), sum(plan.sparse_slabs for plan in plans)
    once = _PackedOnce(partial(_pack, linear, plans, masks, read, index))
    shapes = {
        "dense": (dtype, (dense, rows * 64)),
        "sparse": (dtype, (sparse, rows * 32)),
        "meta": (ir.DataType.INT32, (sparse, rows * 2)),
    }
    tensors: list[ir.TensorProtocol] = [
        _lazy(f"{linear.name}.{part}", partial(once.take, part, kind), kind, shape)
        for part, (kind, shape) in shapes.items()
    ]
    return [_value(tensor) for tensor in tensors], index


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
    """Packs the weights of a node when the first of its three tensors is written, and frees them after the last."""

    def __init__(self, make: Callable[[], PackedLinear]) -> None:
        self._make = make
        self._packed: PackedLinear | None = None
        self._taken: set[str] = set()

    def take(self, part: str, dtype: ir.DataType) -> ir.TensorProtocol:
        if self._packed is None:
            self._packed = self._make()
        array = getattr(self._packed, part)
        self._taken.add(part)
        if len(self._taken) == 3:
            self._packed, self._taken = None, set()
        return ir.Tensor(array.view(dtype.numpy()), dtype=dtype)
