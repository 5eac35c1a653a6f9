"""Graph passes, one per file, and the order in which a freshly exported graph goes through them."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import TYPE_CHECKING, NoReturn

from patch_compile.passes.run import PassDump, run_passes

if TYPE_CHECKING:
    import onnx_ir as ir

    from masklearn.maskset import LinearMask
    from patch_compile.passes.mask_linears import MaskLinearsPass
    from patch_compile.passes.pack_linears import PackLinearsPass
    from patch_compile.passes.packed_initializers import ReadTensor
    from patch_compile.passes.split_linears import SplitLinearsPass
    from patch_compile.plan.lowering import LinearPlan
    from patch_compile.plan.split import SplitCost

__all__ = ["PassDump", "cleanup_passes", "describe_passes", "lowering_passes", "run_passes"]


def cleanup_passes() -> list[ir.passes.PassBase]:
    """Return the passes that make an exported graph one that TensorRT parses, in order. None reads a weight."""
    from onnx_ir.passes import common

    from patch_compile.passes.deduplicate_constants import DeduplicateConstantsPass
    from patch_compile.passes.fix_reshapes import FixReshapesPass
    from patch_compile.passes.fold_constants import FoldConstantsPass
    from patch_compile.passes.fuse_gelu import FuseGeluPass
    from patch_compile.passes.fuse_rms_norm import FuseRmsNormPass
    from patch_compile.passes.fuse_rotary_embedding import FuseRotaryEmbeddingPass
    from patch_compile.passes.remove_noops import RemoveNoopsPass
    from patch_compile.passes.replace_sequences import ReplaceSequencesPass
    from patch_compile.passes.resolve_cast_like import ResolveCastLikePass

    return [
        ResolveCastLikePass(),
        FoldConstantsPass(),
        ReplaceSequencesPass(),
        FixReshapesPass(),
        RemoveNoopsPass(),
        common.RemoveUnusedNodesPass(),
        DeduplicateConstantsPass(),
        common.CommonSubexpressionEliminationPass(),
        FuseRmsNormPass(),
        FuseGeluPass(),
        FuseRotaryEmbeddingPass(),
        common.RemoveUnusedNodesPass(),
        common.RemoveUnusedOpsetsPass(),
        common.TopologicalSortPass(),
        common.NameFixPass(),
    ]


def lowering_passes(
    plan: Mapping[str, LinearPlan],
    masks: Mapping[str, LinearMask],
    read: ReadTensor,
    dtype: ir.DataType,
    *,
    fuse: bool = True,
    split_cost: SplitCost | None = None,
) -> tuple[PackLinearsPass, SplitLinearsPass, MaskLinearsPass]:
    """Return the passes that compile each covered linear as planned, in order, for a graph without weights.

    read: name of a tensor (`<linear>.weight`, a bias) to its values in `dtype`, called when they are written.
    """
    from patch_compile.passes.mask_linears import MaskLinearsPass
    from patch_compile.passes.pack_linears import PackLinearsPass
    from patch_compile.passes.split_linears import SplitLinearsPass

    return (
        PackLinearsPass(plan, masks, read, dtype, fuse=fuse),
        SplitLinearsPass(plan, masks, read, dtype, split_cost),
        MaskLinearsPass(plan, masks, read, dtype),
    )


def describe_passes() -> list[tuple[str, str]]:
    """Name and first line of the documentation of every pass of a compilation, in order."""
    import onnx_ir as ir

    lowering = lowering_passes({}, {}, _no_weight, ir.DataType.FLOAT16)
    kinds = [type(graph_pass) for graph_pass in (*cleanup_passes(), *lowering)]
    return [(kind.__name__, (inspect.getdoc(kind) or "").partition("\n")[0]) for kind in kinds]


def _no_weight(name: str) -> NoReturn:
    raise KeyError(name)
