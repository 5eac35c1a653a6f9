"""Writes the hybrid ONNX file: the pruned model with its linears as PatchLinear nodes."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from masklearn.masks.linear_mask import LinearMask
from masklearn.masks.maskset import grids_of
from patch_compile.packing.fusion import FUSIONS
from patch_compile.planning.lowering import LinearPlan
from patch_compile.sources.onnx_model.linears import OnnxLinear

if TYPE_CHECKING:
    import onnx_ir as ir

    from patch_compile.passes import PassDump

__all__ = ["write_onnx_hybrid"]


def write_onnx_hybrid(
    model: ir.Model,
    linears: Mapping[str, OnnxLinear],
    masks: Mapping[str, LinearMask],
    plan: Mapping[str, LinearPlan],
    dtype: ir.DataType,
    path: Path,
    progress: Callable[[str, int, int], object],
    *,
    fuse: Collection[str],
    dump: PassDump | None = None,
) -> dict[str, LinearPlan]:
    """Write `path` (+ .data) from the pruned model. Packed weights are checked against `W∘M`.

    A linear with the lowering `dense` keeps its node. progress: called with a linear's name, the number of packed
    linears, and the number of all; fuse: names of the fusions that put following operations into a linear's node. Returns
    the plan with the decisions of the graph: the node and the epilogue of each linear.
    """
    from onnx_ir.passes import common

    from patch_compile.onnx_io.write import write_onnx
    from patch_compile.passes import lowering_passes, run_passes
    from patch_compile.passes.lowering.counted_reads import counted_reads
    from patch_compile.sources.onnx_model.rewrite import NormalizeLinearsPass
    from patch_compile.sources.onnx_model.separate_transposes import SeparateTransposesPass
    from patch_compile.sources.onnx_model.sink_casts import SinkCastsPass

    lowered = {name: linear for name, linear in plan.items() if linear.lowering != "dense"}
    normalize = NormalizeLinearsPass({name: linears[name] for name in linears if name in lowered}, dtype)
    read = counted_reads(lambda name: normalize.weights[name].numpy(), lowered, progress)
    lowering = lowering_passes(lowered, masks, read, dtype, fuse=fuse, grids=grids_of(masks))
    cleanup = [SeparateTransposesPass(), common.RemoveUnusedNodesPass(), common.RemoveUnusedOpsetsPass()]
    sinking = [SinkCastsPass(dtype)] if any(FUSIONS[name].reads_activation for name in fuse) else []
    prepared = [normalize, *sinking, common.RemoveUnusedNodesPass()]
    write_onnx(run_passes(model, [*prepared, *lowering.in_order, *cleanup], dump), path)
    return {**plan, **lowering.plan}
