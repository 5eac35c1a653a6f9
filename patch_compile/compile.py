"""Checkpoint + MaskSet → ONNX: export, cleanup, packing, and weights that are read only when written."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from numpy.typing import NDArray

from masklearn.checkpoint import Checkpoint
from masklearn.maskset import LinearMask
from patch_compile.plan.lowering import LinearPlan

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["export_graph", "write_dense", "write_emulated", "write_hybrid"]

Dtype = Literal["float16", "bfloat16"]
Step = Callable[[str, int, int], object]


def export_graph(model_dir: Path, *, dtype: Dtype, opset: int) -> ir.Model:
    """The cleaned-up graph of a model directory, without weights. Opsets before 23 use plain operators only."""
    from patch_compile.export.model import export_model
    from patch_compile.passes import cleanup_passes, run_passes

    graph = export_model(model_dir, dtype=dtype, opset=opset, plain_ops=opset < 23)
    return run_passes(graph, cleanup_passes())


def write_dense(
    graph: ir.Model, checkpoint: Checkpoint, path: Path, dtype: Dtype, *, emulate_bfloat16: bool = False
) -> None:
    """Write the graph with the checkpoint's weights as they are; external data beside `path`."""
    from patch_compile.onnx_data import bind_weights, write_onnx
    from patch_compile.passes.emulate_bfloat16 import EmulateBfloat16Pass

    bind_weights(graph, checkpoint, _ir_dtype(dtype))
    write_onnx(EmulateBfloat16Pass()(graph).model if emulate_bfloat16 else graph, path)


def write_emulated(source: Path, path: Path) -> None:
    """Copy a bf16 ONNX file as fp32 that rounds to bf16, which ONNX Runtime's CPU provider can run."""
    import onnx_ir as ir

    from patch_compile.onnx_data import write_onnx
    from patch_compile.passes.emulate_bfloat16 import EmulateBfloat16Pass

    write_onnx(EmulateBfloat16Pass()(ir.load(source)).model, path)


def write_hybrid(
    graph: ir.Model,
    pruned: Checkpoint,
    masks: Mapping[str, LinearMask],
    plan: Mapping[str, LinearPlan],
    path: Path,
    dtype: Dtype,
    step: Step | None = None,
    *,
    fuse: bool = True,
) -> dict[str, LinearPlan]:
    """Rewrite the covered linears as planned and write the graph; all weights come from the pruned checkpoint.

    Packed weights are checked against `W∘M` as they are written. step: called with a linear's name, linears packed
    and in all. fuse: what follows a linear goes into its node where the graph allows it. Returns the plan with what
    the graph decided: the node and the epilogue of each linear.
    """
    from patch_compile.onnx_data import bind_weights, cast_weight, write_onnx
    from patch_compile.passes import run_passes
    from patch_compile.passes.pack_linears import PackLinearsPass

    total, done = sum(p.lowering == "plugin" for p in plan.values()), 0

    def read(name: str) -> NDArray[Any]:
        nonlocal done
        linear = name.removesuffix(".weight")
        if linear in plan:  # and not a bias
            done += 1
            if step:
                step(linear, done, total)
        return cast_weight(name, pruned.read(name), _ir_dtype(dtype))

    packing = PackLinearsPass(plan, masks, read, _ir_dtype(dtype), fuse=fuse)
    run_passes(graph, [packing])
    bind_weights(graph, pruned, _ir_dtype(dtype))
    write_onnx(graph, path)
    return packing.plan


def _ir_dtype(dtype: Dtype) -> ir.DataType:
    import onnx_ir as ir

    return ir.DataType[dtype.upper()]
