"""Compiles the masked linears of a checkpoint or of an existing graph to ONNX. Weights are read when they are written."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from numpy.typing import NDArray

from masklearn.base.progress import OnStep, silent
from masklearn.masks.linear_mask import LinearMask
from masklearn.masks.maskset import grids_of
from masklearn.model.checkpoint import Checkpoint
from patch_compile.packing.fusion import FUSIONS
from patch_compile.planning.lowering import LinearPlan

if TYPE_CHECKING:
    import onnx_ir as ir

    from patch_compile.passes import GraphPass, PassDump
    from patch_compile.passes.linears import Linear
    from patch_compile.passes.lowering.packed_initializers import ReadTensor

Dtype = Literal["float16", "bfloat16"]
LogitsOf = Literal["all", "last"]


def export_graph(
    model_dir: Path, *, dtype: Dtype, opset: int, logits: LogitsOf = "all", dump: PassDump | None = None
) -> ir.Model:
    """Returns the cleaned-up graph of a model directory, without weights. Opsets before 23 use plain operators only.

    logits: positions that get logits; serving needs only the logits of the last position. Encoders ignore it.
    """
    from patch_compile.onnx_export.model import export_model
    from patch_compile.passes import cleanup_passes, run_passes

    graph = export_model(model_dir, dtype=dtype, opset=opset, logits=logits)
    return run_passes(graph, cleanup_passes(), dump)


def write_dense(
    graph: ir.Model, checkpoint: Checkpoint, path: Path, dtype: Dtype, *, runnable: bool = False
) -> None:
    """Write the graph with the unmasked weights of the checkpoint. External data lie next to `path`.

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
    dump: PassDump | None = None,
) -> dict[str, LinearPlan]:
    """Rewrite the covered linears as planned and write the graph with the masked weights of the checkpoint.

    The checkpoint may or may not be pruned: each lowering masks the weights that it writes, and checks them. Masks that are
    a MaskSet bring the grids of quantised linears. step: called with (name of a linear, linears written, linears in all);
    fuse: names of the fusions to apply where the graph allows it, None for all.

    Returns the plan with the node, the epilogue and the split that the graph led to for each linear.
    """
    from patch_compile.onnx_io.write import bind_weights

    kind = _ir_dtype(dtype)
    bind_weights(graph, checkpoint, kind)
    read = reader_of(checkpoint, plan, kind)
    return write_lowered(graph, masks, plan, read, kind, path, step, fuse=fuse, dump=dump)


def write_onnx_hybrid(
    model: ir.Model,
    linears: Mapping[str, Linear],
    masks: Mapping[str, LinearMask],
    plan: Mapping[str, LinearPlan],
    dtype: ir.DataType,
    path: Path,
    step: OnStep,
    *,
    fuse: Collection[str],
    dump: PassDump | None = None,
) -> dict[str, LinearPlan]:
    """Write a pruned model with its linears as planned. A linear with the lowering `dense` keeps its node.

    Returns the plan with the decisions of the graph, as `write_hybrid` does.
    """
    from onnx_ir.passes import common

    from patch_compile.passes.lowering.normalize_linears import NormalizeLinearsPass
    from patch_compile.passes.lowering.separate_transposes import SeparateTransposesPass

    lowered = {name: linear for name, linear in plan.items() if linear.lowering != "dense"}
    normalize = NormalizeLinearsPass({name: linears[name] for name in linears if name in lowered}, dtype)
    made = write_lowered(
        model,
        masks,
        lowered,
        lambda name: normalize.weights[name].numpy(),
        dtype,
        path,
        step,
        fuse=fuse,
        dump=dump,
        before=[normalize, *sinking_passes(dtype, fuse), common.RemoveUnusedNodesPass()],
        after=[SeparateTransposesPass(), common.RemoveUnusedNodesPass(), common.RemoveUnusedOpsetsPass()],
    )
    return {**plan, **made}


def write_lowered(
    model: ir.Model,
    masks: Mapping[str, LinearMask],
    plan: Mapping[str, LinearPlan],
    read: ReadTensor,
    dtype: ir.DataType,
    path: Path,
    step: OnStep | None = None,
    *,
    fuse: Collection[str] | None = None,
    dump: PassDump | None = None,
    before: Sequence[GraphPass] = (),
    stacking: Sequence[GraphPass] = (),
    after: Sequence[GraphPass] = (),
) -> dict[str, LinearPlan]:
    """Lower the linears of any graph as planned, and write it to `path` (+ .data) with one tensor in memory at a time.

    read: see `lowering_passes`; step, fuse: see `write_hybrid`; before: passes that give the planned linears the
    form that the lowering passes take (`Linear.lowerable`); stacking: passes after the fusions; after: the last passes.
    """
    from patch_compile.onnx_io.write import write_onnx
    from patch_compile.passes import lowering_passes, run_passes

    lowering = lowering_passes(
        plan,
        masks,
        _counted_reads(read, plan, step or silent),
        dtype,
        fuse=fuse,
        grids=grids_of(masks),
        stacking=stacking,
    )
    write_onnx(run_passes(model, [*before, *lowering.in_order, *after], dump), path)
    return lowering.plan


def reader_of(checkpoint: Checkpoint, plan: Mapping[str, LinearPlan], dtype: ir.DataType) -> ReadTensor:
    """Returns a function that reads a tensor of a checkpoint by name, in the type that packing takes."""
    from patch_compile.onnx_io.write import read_weight

    def read(name: str) -> NDArray[Any]:
        linear = name.removesuffix(".weight")
        # A quantised weight is on its grid in the checkpoint's own type.
        own = linear in plan and plan[linear].weight_type.quantised
        return read_weight(checkpoint, name, None if own else dtype)

    return read


def sinking_passes(dtype: ir.DataType, fuse: Collection[str]) -> list[GraphPass]:
    """Returns the passes that move activations to the type of packed weights, if a fusion looks for activations."""
    from onnx_ir.passes import common

    from patch_compile.passes.lowering.sink_casts import SinkCastsPass

    sought = any(FUSIONS[name].reads_activation for name in fuse)
    return [SinkCastsPass(dtype), common.RemoveUnusedNodesPass()] if sought else []


def _counted_reads(read: ReadTensor, linears: Collection[str], step: OnStep) -> ReadTensor:
    """Returns a function that reads like `read`, and first reports each `<linear>.weight` of these linears. Weights are read
    when they are written."""
    done = 0

    def counted(name: str) -> NDArray[Any]:
        nonlocal done
        linear = name.removesuffix(".weight")
        if linear != name and linear in linears:
            done += 1
            step(linear, done, len(linears))
        return read(name)

    return counted


def _ir_dtype(dtype: Dtype) -> ir.DataType:
    import onnx_ir as ir

    return ir.DataType[dtype.upper()]
