"""The constants of a PatchLinear node, packed when they are written and not before."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from masklearn.maskset import LinearMask
from patch_compile.errors import InvariantError
from patch_compile.gated import interleave, interleave_grids, separate
from patch_compile.invariants import check_packed
from patch_compile.packing import PackedLinear, csr_index, pack, sparse_slabs
from patch_compile.plan.lowering import LinearPlan

__all__ = ["ReadTensor", "concatenated_bias", "packed_initializers"]

ReadTensor = Callable[[str], NDArray[Any]]


def packed_initializers(
    node: str,
    linears: Sequence[LinearPlan],
    masks: Mapping[str, LinearMask],
    read: ReadTensor,
    dtype: ir.DataType,
) -> list[ir.Value]:
    """`<node>.dense|sparse|meta|index` of a linear, or of a gate and its up, panel by panel.

    The index is made now. The others are packed, and compared with `W∘M` bit for bit, when the first of them is written,
    and forgotten after the last: the weights of one node are in memory at a time.
    """
    rows = linears[0].panel_rows
    grids = [sparse_slabs(masks[plan.name], rows) for plan in linears]
    index = csr_index(grids[0] if len(grids) == 1 else interleave_grids(*grids))
    dense, sparse = sum(plan.dense_slabs for plan in linears), sum(plan.sparse_slabs for plan in linears)
    once = _PackedOnce(partial(_pack, node, linears, masks, read, index))
    shapes = {
        "dense": (dtype, (dense, rows * 64)),
        "sparse": (dtype, (sparse, rows * 32)),
        "meta": (ir.DataType.INT32, (sparse, rows * 2)),
    }
    tensors: list[ir.TensorProtocol] = [
        _lazy(f"{node}.{part}", partial(once.take, part, kind), kind, shape)
        for part, (kind, shape) in shapes.items()
    ]
    return [_value(tensor) for tensor in (*tensors, ir.Tensor(index, name=f"{node}.index"))]


def concatenated_bias(
    node: str, biases: Sequence[ir.Value], read: ReadTensor, dtype: ir.DataType
) -> ir.Value:
    """`<node>.bias` `[2 N]`: the gate's, then the up's; read when it is written."""
    names = [str(bias.name) for bias in biases]
    size = sum(bias.shape.numpy()[0] for bias in biases if bias.shape is not None)

    def make() -> ir.TensorProtocol:
        return ir.Tensor(np.concatenate([read(name) for name in names]), dtype=dtype)

    return _value(_lazy(f"{node}.bias", make, dtype, (size,)))


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
    node: str,
    linears: Sequence[LinearPlan],
    masks: Mapping[str, LinearMask],
    read: ReadTensor,
    index: NDArray[np.int32],
) -> PackedLinear:
    weights = [read(f"{plan.name}.weight").view(np.uint16) for plan in linears]
    parts = [
        pack(weight, masks[plan.name], plan.panel_rows) for weight, plan in zip(weights, linears, strict=True)
    ]
    packed = parts[0] if len(parts) == 1 else interleave(*parts)
    # What is checked is what is written: gate and up as they come out of their node again.
    parts = [packed] if len(parts) == 1 else [*separate(packed, linears[0].shape[0])]
    for part, weight, plan in zip(parts, weights, linears, strict=True):
        check_packed(plan.name, part, weight, masks[plan.name])
    if not np.array_equal(packed.index, index):
        raise InvariantError(f"{node}: the index announced and the index packed differ")
    return packed


class _PackedOnce:
    """Packs a node's weights when the first of its three tensors is written and forgets them after the last."""

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
