"""Writes an exported graph with its linears as PatchLinear nodes, with the weights of a checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from masklearn.masks.linear_mask import LinearMask
from masklearn.masks.maskset import grids_of
from masklearn.model.prune import masked_weight
from patch_compile.onnx_io.write import read_weight, write_onnx
from patch_compile.packing.fusion import FUSIONS, QKV
from patch_compile.planning.lowering import LinearPlan
from patch_compile.sources.exported_graph.match import HeldWeights, Matches

if TYPE_CHECKING:
    import onnx_ir as ir

    from masklearn.model.checkpoint import Checkpoint
    from patch_compile.passes import PassDump

__all__ = ["write_graph"]


def write_graph(
    model: ir.Model,
    matches: Matches,
    checkpoint: Checkpoint,
    masks: Mapping[str, LinearMask],
    plan: Mapping[str, LinearPlan],
    dtype: ir.DataType,
    path: Path,
    progress: Callable[[str, int, int], object],
    *,
    fuse: Collection[str],
    dump: PassDump | None = None,
) -> dict[str, LinearPlan]:
    """Write `path` (+ .data): the graph with masked weights, and PatchLinear nodes as planned.

    Other nodes, and all inputs and outputs, stay as they are. One tensor is in memory at a time. checkpoint: the weights to
    mask; dtype: type of packed weights; progress: called with a linear's name, the number of packed linears, and of all;
    fuse: names of the fusions. Returns the plan with the decisions of the graph.
    """
    from onnx_ir.passes import common

    from patch_compile.passes import lowering_passes, run_passes
    from patch_compile.passes.lowering.counted_reads import counted_reads
    from patch_compile.sources.exported_graph.stack import StackJoinedPass
    from patch_compile.sources.exported_graph.substitute_linears import SubstituteLinearsPass
    from patch_compile.sources.onnx_model.separate_transposes import SeparateTransposesPass
    from patch_compile.sources.onnx_model.sink_casts import SinkCastsPass

    lowered = {name: one for name, one in plan.items() if one.lowering != "dense"}

    def masked(name: str) -> NDArray[Any]:
        """Returns W∘M of a linear, in the checkpoint's type."""
        weight = read_weight(checkpoint, f"{name}.weight", None)
        return masked_weight(weight, masks[name].keep()) if name in masks else weight

    def read_own(name: str) -> NDArray[Any]:
        if name in put.biases:
            return put.biases[name].numpy()
        linear = name.removesuffix(".weight")
        if linear not in lowered:
            return masked(linear)
        # A quantised weight is on its grid in the checkpoint's own type.
        own = lowered[linear].weight_type.quantised
        return read_weight(checkpoint, name, None if own else dtype)

    read = counted_reads(read_own, lowered, progress)
    put = SubstituteLinearsPass(matches.products, lowered, read, dtype)
    for stored in (*(one.stored for one in matches.products), *matches.in_place):
        if not lowered.keys() & {part.name for part in stored.parts}:
            _mask_in_place(stored, masks, masked)
    lowering = lowering_passes(lowered, masks, read, dtype, fuse=fuse, grids=grids_of(masks))
    activations = any(FUSIONS[name].reads_activation for name in fuse)
    narrowed = any(product.linear.dtype != dtype for product in matches.products)
    sinking = [SinkCastsPass(dtype), common.RemoveUnusedNodesPass()] if narrowed and activations else []
    stacking = [StackJoinedPass(put.joined, lowered)] if QKV in fuse else []
    passes = [put, *sinking, *lowering.fusing, *stacking, lowering.packing, lowering.splitting]
    write_onnx(run_passes(model, [*passes, SeparateTransposesPass()], dump), path)
    return {**plan, **lowering.plan}


def _mask_in_place(
    stored: HeldWeights, masks: Mapping[str, LinearMask], masked: Callable[[str], NDArray[Any]]
) -> None:
    """Give an initializer the masked weights of its linears. They are read when it is written."""
    import onnx_ir as ir

    from patch_compile.onnx_io.write import cast_weight

    before, dtype = stored.value.const_value, stored.value.dtype
    parts = [part for part in stored.parts if part.name in masks]
    if before is None or dtype is None or not parts:
        return

    def make() -> ir.TensorProtocol:
        array = np.array(before.numpy())
        rows = array.T if stored.transposed else array  # a view
        for part in parts:
            rows[part.slice] = cast_weight(f"{part.name}.weight", masked(part.name), dtype)
        return ir.Tensor(array, dtype=dtype, name=stored.value.name)

    stored.value.const_value = ir.LazyTensor(
        make, dtype=dtype, shape=ir.Shape(before.shape.numpy()), name=stored.value.name, cache=False
    )
