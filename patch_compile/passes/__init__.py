"""Graph passes, one per file, and the order in which a freshly exported graph goes through them."""

from typing import TYPE_CHECKING

from patch_compile.passes.run import run_passes

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["cleanup_passes", "run_passes"]


def cleanup_passes() -> "list[ir.passes.PassBase]":
    """Return the passes that make an exported graph one that TensorRT parses, in order. None reads a weight."""
    from onnx_ir.passes import common

    from patch_compile.passes.deduplicate_constants import DeduplicateConstantsPass
    from patch_compile.passes.fix_reshapes import FixReshapesPass
    from patch_compile.passes.fold_constants import FoldConstantsPass
    from patch_compile.passes.fuse_gelu import FuseGeluPass
    from patch_compile.passes.fuse_rms_norm import FuseRmsNormPass
    from patch_compile.passes.fuse_rotary_embedding import FuseRotaryEmbeddingPass
    from patch_compile.passes.remove_noops import RemoveNoopsPass

    return [
        FoldConstantsPass(),
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
