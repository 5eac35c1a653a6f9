"""Compiles a checkpoint and a MaskSet to ONNX: export, cleanup, lowering, and writing. Weights are read when written."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from numpy.typing import NDArray

from masklearn.base.progress import OnStep, silent
from masklearn.masks.linear_mask import LinearMask
from masklearn.masks.maskset import grids_of
from masklearn.model.checkpoint import Checkpoint
from patch_compile.planning.lowering import LinearPlan
from patch_compile.planning.split import SplitCost

if TYPE_CHECKING:
    import onnx_ir as ir

    from patch_compile.passes import PassDump

__all__ = ["export_graph", "write_dense", "write_hybrid"]

Dtype = Literal["float16", "bfloat16"]
LogitsOf = Literal["all", "last"]


def export_graph(
    model_dir: Path, *, dtype: Dtype, opset: int, logits: LogitsOf = "all", dump: PassDump | None = None
) -> ir.Model:
    """Returns the cleaned-up graph of a model directory, without weights. Opsets before 23 use plain operators only.

    logits: positions that get logits; serving needs those of the last one only. Encoders ignore it.
    """
    from patch_compile.onnx_export.model import export_model
    from patch_compile.passes import cleanup_passes, run_passes

    graph = export_model(model_dir, dtype=dtype, opset=opset, plain_ops=opset < 23, logits=logits)
    return run_passes(graph, cleanup_passes(), dump)


def write_dense(
    graph: ir.Model, checkpoint: Checkpoint, path: Path, dtype: Dtype, *, runnable: bool = False
) -> None:
    """Write the graph with the unmasked weights of the checkpoint. External data lie beside `path`.

    runnable: write a version that ONNX Runtime can run (see `onnx_io.runnable`) instead of the graph itself.
    """
    from patch_compile.onnx_io.emulate_bfloat16 import EmulateBfloat16Pass
    from patch_compile.onnx_io.write import bind_weights, write_onnx

    bind_weights(graph, checkpoint, _ir_dtype(dtype))
    write_onnx(EmulateBfloat16Pass()(graph).model if runnable else graph, path)


def write_hybrid(
    graph: ir.Model,
    checkpoint: Checkpoint,
    masks: Mapping[str, LinearMask],
    plan: Mapping[str, LinearPlan],
    path: Path,
    dtype: Dtype,
    step: OnStep | None = None,
    *,
    fuse: Collection[str] | None = None,
    split_cost: SplitCost | None = None,
    dump: PassDump | None = None,
) -> dict[str, LinearPlan]:
    """Rewrite the covered linears as planned and write the graph with the masked weights of the checkpoint.

    The checkpoint may be pruned already or not: each lowering masks the weights that it writes, and checks them. Masks that
    are a MaskSet bring the grids of quantised linears.
    step: called with (name of a linear, linears written, linears in all); fuse: names of the fusions to apply where the
    graph allows it, None for all; split_cost: cost that the groups of a split minimise.

    Returns the plan with the node, the epilogue and the split that the graph led to for each linear.
    """
    from patch_compile.onnx_io.write import bind_weights, read_weight, write_onnx
    from patch_compile.passes import lowering_passes, run_passes
    from patch_compile.passes.lowering.counted_reads import counted_reads

    def read(name: str) -> NDArray[Any]:
        linear = name.removesuffix(".weight")
        # A quantised weight is on its grid in the checkpoint's own type.
        own = linear in plan and plan[linear].weight_type.quantised
        return read_weight(checkpoint, name, None if own else _ir_dtype(dtype))

    counted = counted_reads(read, plan, step or silent)
    lowering = lowering_passes(
        plan, masks, counted, _ir_dtype(dtype), fuse=fuse, split_cost=split_cost, grids=grids_of(masks)
    )
    run_passes(graph, lowering.in_order, dump)
    bind_weights(graph, checkpoint, _ir_dtype(dtype))
    write_onnx(graph, path)
    return lowering.plan


def _ir_dtype(dtype: Dtype) -> ir.DataType:
    import onnx_ir as ir

    return ir.DataType[dtype.upper()]
