"""Checkpoint + MaskSet → ONNX: export, cleanup, lowering, and weights that are read only when written."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from numpy.typing import NDArray

from masklearn.checkpoint.checkpoint import Checkpoint
from masklearn.masks.maskset import LinearMask
from patch_compile.packing.fusion import Fusion
from patch_compile.plan.lowering import LinearPlan
from patch_compile.plan.split import SplitCost

if TYPE_CHECKING:
    import onnx_ir as ir

    from patch_compile.passes import PassDump

__all__ = ["export_graph", "write_dense", "write_hybrid"]

Dtype = Literal["float16", "bfloat16"]
LogitsOf = Literal["all", "last"]
Step = Callable[[str, int, int], object]


def export_graph(
    model_dir: Path, *, dtype: Dtype, opset: int, logits: LogitsOf = "all", dump: PassDump | None = None
) -> ir.Model:
    """The cleaned-up graph of a model directory, without weights. Opsets before 23 use plain operators only.

    logits: of all positions, or of the last one alone, which is what serving needs; an encoder has none.
    """
    from patch_compile.export.model import export_model
    from patch_compile.passes import cleanup_passes, run_passes

    graph = export_model(model_dir, dtype=dtype, opset=opset, plain_ops=opset < 23, logits=logits)
    return run_passes(graph, cleanup_passes(), dump)


def write_dense(
    graph: ir.Model, checkpoint: Checkpoint, path: Path, dtype: Dtype, *, runnable: bool = False
) -> None:
    """Write the graph with the checkpoint's weights as they are; external data beside `path`.

    runnable: as ONNX Runtime can run it (see `onnx_io.runnable`), without a file of the graph itself.
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
    step: Step | None = None,
    *,
    fuse: Collection[Fusion] = tuple(Fusion),
    split_cost: SplitCost | None = None,
    dump: PassDump | None = None,
) -> dict[str, LinearPlan]:
    """Rewrite the covered linears as planned and write the graph, masked, with the weights of the checkpoint.

    Whether the checkpoint is pruned already makes no difference: each lowering masks what it writes, and checks it.
    step: called with a linear's name, linears written and in all. fuse: what goes into a linear's node where the graph
    allows it. split_cost: what the groups of a split minimise. Returns the plan with what the graph decided:
    the node and the epilogue of each linear, and how it is split.
    """
    from patch_compile.onnx_io.write import bind_weights, read_weight, write_onnx
    from patch_compile.passes import lowering_passes, run_passes

    done = 0

    def read(name: str) -> NDArray[Any]:
        nonlocal done
        linear = name.removesuffix(".weight")
        if linear in plan:  # and not a bias
            done += 1
            if step:
                step(linear, done, len(plan))
        return read_weight(checkpoint, name, _ir_dtype(dtype))

    lowering = lowering_passes(plan, masks, read, _ir_dtype(dtype), fuse=fuse, split_cost=split_cost)
    run_passes(graph, lowering.in_order, dump)
    bind_weights(graph, checkpoint, _ir_dtype(dtype))
    write_onnx(graph, path)
    return lowering.plan


def _ir_dtype(dtype: Dtype) -> ir.DataType:
    import onnx_ir as ir

    return ir.DataType[dtype.upper()]
