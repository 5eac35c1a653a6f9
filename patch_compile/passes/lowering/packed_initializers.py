"""Constants of a PatchLinear node, packed only when they are written. Quantised weights are packed as integers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from masklearn.choice.menu import why_apart
from masklearn.masks.kinds.base import TileKind
from masklearn.masks.kinds.table import DENSE
from masklearn.masks.linear_mask import LinearMask
from masklearn.model.prune import masked_weight
from masklearn.quant.grid import Grid
from masklearn.quant.table import WeightType
from patch_compile.errors import InvariantError, PatchCompileError
from patch_compile.onnx_io.write import MadeOnce, lazy_initializer
from patch_compile.packing.checks import check_packed
from patch_compile.packing.format import PackedLinear, codes_together, pack_together
from patch_compile.packing.function import tensor_names
from patch_compile.packing.index import Place, csr_index, gated_panels, stacked_panels
from patch_compile.packing.quantised import Quantised, pack_quantised
from patch_compile.packing.slab_kinds import (
    SLAB_K,
    code_words,
    kinds_among,
    numbers_of,
    slab_words,
)
from patch_compile.passes.linear_node import LinearNode
from patch_compile.planning.lowering import LinearPlan

ReadTensor = Callable[[str], NDArray[Any]]


@dataclass(frozen=True)
class LinearsToPack:
    """The linears of one future node, and where their masks and weights are.

    linear: the node before packing; plans: of its linears; read, grids: see `PackLinearsPass`; dtype: the graph's type.
    """

    linear: LinearNode
    plans: Sequence[LinearPlan]
    masks: Mapping[str, LinearMask]
    read: ReadTensor
    dtype: ir.DataType
    grids: Mapping[str, Grid]

    @property
    def panel_rows(self) -> int:
        return self.plans[0].rows_of_panels

    @property
    def weights(self) -> WeightType | None:
        """Type of quantised weights, None for 16-bit weights."""
        weights = self.plans[0].weight_type
        return weights if weights.quantised else None

    @property
    def places(self) -> list[Place]:
        rows = [n for n, _ in self.linear.shapes]
        if self.linear.gated:
            return gated_panels(rows[0], self.panel_rows)
        return stacked_panels(rows, self.panel_rows)

    def slab_kinds(self) -> NDArray[np.uint8]:
        """Returns the code of each slab's kind, `[panels, slabs]`."""
        masks = [_packed_mask(plan, self.masks[plan.name]) for plan in self.plans]
        return codes_together(masks, self.places, self.panel_rows)

    def pack(self) -> PackedLinear:
        """Read the weights, pack them, and compare the packed form with the weights.

        Raises PatchCompileError for weights that are not on their grids.
        """
        if self.weights is not None:
            return self._pack_integers()
        weights = [self.read(f"{plan.name}.weight").view(np.uint16) for plan in self.plans]
        parts = [(weight, self.masks[plan.name]) for weight, plan in zip(weights, self.plans, strict=True)]
        packed = pack_together(parts, self.panel_rows, self.places)
        for plan, part, place in zip(self.plans, parts, self.places, strict=True):
            check_packed(plan.name, packed, *part, place)
        return packed

    def _pack_integers(self) -> PackedLinear:
        dtype = self.dtype.numpy()
        parts = [
            _quantised(plan, self.read(f"{plan.name}.weight"), self.masks[plan.name], self.grids[plan.name])
            for plan in self.plans
        ]
        packed = pack_quantised([quantised for quantised, _ in parts], self.places, dtype, self.panel_rows)
        for plan, (quantised, weight), place in zip(self.plans, parts, self.places, strict=True):
            values = weight if weight.dtype == dtype else quantised.values(dtype)
            check_packed(plan.name, packed, values, quantised.mask, place)
        return packed


def packed_initializers(
    to_pack: LinearsToPack,
) -> tuple[list[ir.Value], NDArray[np.int32], tuple[TileKind, ...]]:
    """Returns `<node>.dense|sparse|meta|…`, the index and the kinds of slabs: gate and up take turns, linears that share X
    are stacked.

    The index is made now. The tensors are packed, and compared with `W∘M` bit for bit, when the first of them is written.
    They are freed after the last, so only the weights of one node are in memory at a time.
    """
    codes = to_pack.slab_kinds()
    kinds = kinds_among([codes])
    index = csr_index(numbers_of(codes, kinds), len(kinds))
    shapes, name = _shapes(to_pack, kinds), to_pack.linear.name

    def pack() -> PackedLinear:
        packed = to_pack.pack()
        if not np.array_equal(packed.index, index):
            raise InvariantError(f"{name}: the index announced and the index packed differ")
        return packed

    once = MadeOnce(pack, len(shapes))

    def take(number: int, kind: ir.DataType) -> NDArray[Any]:
        return once.take(number).tensors[number].view(kind.numpy())

    values = [
        lazy_initializer(f"{name}.{part}", shape, kind, partial(take, number, kind))
        for number, (part, kind, shape) in enumerate(shapes)
    ]
    return values, index, kinds


def _shapes(
    to_pack: LinearsToPack, kinds: Sequence[TileKind]
) -> list[tuple[str, ir.DataType, tuple[int, ...]]]:
    """Returns name, type and shape of each tensor, in their order."""
    rows, weights = to_pack.panel_rows, to_pack.weights
    dtype = to_pack.dtype if weights is None else ir.DataType.INT32
    apart = to_pack.plans[: 1 if to_pack.linear.gated else None]  # slabs of a gate and its up are joint
    count = {kind: sum(plan.slabs.by_kind.get(kind.name, 0) for plan in apart) for kind in kinds}
    shapes: list[tuple[ir.DataType, tuple[int, ...]]] = []
    for kind in kinds:
        values = rows * SLAB_K * kind.kept // kind.group
        width = values if weights is None else slab_words(kind, weights, rows)
        shapes.append((dtype, (count[kind], width)))
        if kind is not DENSE:
            shapes.append((ir.DataType.INT32, (count[kind], code_words(kind, rows))))
    if weights is not None and weights.row_bytes:
        shapes.append((ir.DataType.FLOAT, (len(to_pack.slab_kinds()) * rows,)))
    return [(name, *shape) for name, shape in zip(tensor_names(kinds, weights), shapes, strict=True)]


def joint_bias(linear: LinearNode, read: ReadTensor, dtype: ir.DataType) -> ir.Value:
    """Returns `<node>.bias`, the biases of several linears in the order of their rows in Y. Read when it is written.

    The bias of a gate and its up is `[2 N]`, gate first.
    """
    names = [str(bias.name) for bias in linear.biases]
    sizes = [n for n, _ in linear.shapes] if linear.gated else linear.rows

    def make() -> NDArray[Any]:
        whole = np.zeros(sum(sizes), dtype.numpy())
        for name, start in zip(names, np.cumsum([0, *sizes[:-1]]), strict=True):
            values = read(name)
            whole[start : start + len(values)] = values
        return whole

    return lazy_initializer(f"{linear.name}.bias", (sum(sizes),), dtype, make)


def check_grid(name: str, grid: Grid, shape: tuple[int, int], dtype: ir.DataType) -> None:
    """Raise PatchCompileError if a linear's scales do not fit its shape `[N, K]`, or the graph's 16-bit type."""
    try:
        grid.check_shape(shape)
    except ValueError as error:
        raise PatchCompileError(
            f"{name} can't have {grid.type} weights",
            f"They do not fit its shape {list(shape)}: {error}.",
            "Give the masks of this model, or learn them with int8 weights for this linear: "
            f"--weights '{name}=int8'.",
        ) from error
    check_scales(name, grid, dtype.name.lower())


def check_scales(name: str, grid: Grid, dtype: str) -> None:
    """Raise PatchCompileError if a graph of this type, float16 or bfloat16, does not hold a linear's scales."""
    if not grid.fits(dtype):
        other = "bfloat16" if dtype == "float16" else "float16"
        raise PatchCompileError(
            f"The {grid.type} scales of {name} are not numbers of {dtype}",
            f"They come from a quantised checkpoint in {other}, and this graph would round them.",
            f"Give --dtype {other}.",
        )


def check_kinds(name: str, mask: LinearMask, weights: WeightType) -> None:
    """Raise PatchCompileError if no kernel multiplies tiles of the mask with weights of this type."""
    spelled = weights.name if weights.quantised else "16-bit"
    for kind in mask.by_kind():
        if not kind.goes_with(weights):
            raise PatchCompileError(
                f"{name} can't have tiles of kind {kind} with {spelled} weights",
                why_apart(kind, weights)[0],
                f"Give masks of 2:4 for it, or learn them with --kinds '{name}=2:4'.",
            )


def _packed_mask(plan: LinearPlan, mask: LinearMask) -> LinearMask:
    """Returns the mask that slabs get their kinds from: without pruned tiles if the plan stores quantised slabs densely."""
    if plan.uses_zeros or not plan.weight_type.quantised:
        return mask
    return LinearMask(mask.shape, mask.tile, np.zeros_like(mask.tiles), np.zeros(0, np.uint8))


def _quantised(
    plan: LinearPlan, weight: NDArray[Any], mask: LinearMask, grid: Grid
) -> tuple[Quantised, NDArray[Any]]:
    """Returns the integers of a weight `[N, K]`, and the weight that is packed: masked, if its pruned tiles are dense slabs.

    Raises PatchCompileError if a weight that the mask keeps is not on the grid.
    """
    stored = _packed_mask(plan, mask)
    if stored is not mask:
        weight = masked_weight(weight, mask.keep())
    try:
        return Quantised.of(weight, stored, grid), weight
    except ValueError as error:
        raise PatchCompileError(
            f"The weights of {plan.name} differ from the weights that its masks were written with",
            f"{str(error)[:1].upper()}{str(error)[1:]}.",
            "Use the masks and the model that were written together, as they were written, or learn the masks again.",
        ) from error
