"""The passes, in order, that turn an exported graph into a graph that TensorRT parses. They read no weights."""

from onnx_ir.passes import common

from patch_compile.passes.cleanup.deduplicate_constants import DeduplicateConstantsPass
from patch_compile.passes.cleanup.fix_reshapes import FixReshapesPass
from patch_compile.passes.cleanup.fold_constants import FoldConstantsPass
from patch_compile.passes.cleanup.fuse_gelu import FuseGeluPass
from patch_compile.passes.cleanup.fuse_rms_norm import FuseRmsNormPass
from patch_compile.passes.cleanup.fuse_rotary_embedding import FuseRotaryEmbeddingPass
from patch_compile.passes.cleanup.remove_noops import RemoveNoopsPass
from patch_compile.passes.cleanup.replace_sequences import ReplaceSequencesPass
from patch_compile.passes.cleanup.resolve_cast_like import ResolveCastLikePass

CLEANUP = (
    ResolveCastLikePass,
    FoldConstantsPass,
    ReplaceSequencesPass,
    FixReshapesPass,
    RemoveNoopsPass,
    common.RemoveUnusedNodesPass,
    DeduplicateConstantsPass,
    common.CommonSubexpressionEliminationPass,
    FuseRmsNormPass,
    FuseGeluPass,
    FuseRotaryEmbeddingPass,
    common.RemoveUnusedNodesPass,
    common.RemoveUnusedOpsetsPass,
    common.TopologicalSortPass,
    common.NameFixPass,
)
