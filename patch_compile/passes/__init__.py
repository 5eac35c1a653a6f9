"""Graph passes, one per file, and their order for an exported graph."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NoReturn

from patch_compile.packing.fusion import FUSIONS
from patch_compile.passes.run import GraphPass, PassDump, run_passes

if TYPE_CHECKING:
    import onnx_ir as ir

    from masklearn.masks.linear_mask import LinearMask
    from masklearn.quant.grid import Grid
    from patch_compile.passes.lowering.mask_linears import MaskLinearsPass
    from patch_compile.passes.lowering.pack_linears import PackLinearsPass
    from patch_compile.passes.lowering.packed_initializers import ReadTensor
    from patch_compile.passes.lowering.split_linears import SplitLinearsPass
    from patch_compile.planning.lowering import LinearPlan
    from patch_compile.planning.split import SplitCost

__all__ = [
    "GraphPass",
    "LoweringPasses",
    "PassDump",
    "cleanup_passes",
    "describe_passes",
    "lowering_passes",
    "run_passes",
]


def cleanup_passes() -> list[ir.passes.PassBase]:
    """Returns the passes, in order, that turn an exported graph into a graph that TensorRT parses. They read no weights."""
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


@dataclass(frozen=True)
class LoweringPasses:
    """Passes that compile each covered linear as planned."""

    fusing: list[GraphPass]
    packing: PackLinearsPass
    splitting: SplitLinearsPass
    masking: MaskLinearsPass

    @property
    def in_order(self) -> list[GraphPass]:
        """All passes, in the order of their runs."""
        return [*self.fusing, self.packing, self.splitting, self.masking]

    @property
    def plan(self) -> dict[str, LinearPlan]:
        """Plan as compiled, after the passes have run: with nodes, panels, and the parts of split linears."""
        splits = {name: split.row() for name, split in self.splitting.splits.items()}
        return {
            name: one.model_copy(update={"split": splits.get(name)})
            for name, one in self.packing.plan.items()
        }


def lowering_passes(
    plan: Mapping[str, LinearPlan],
    masks: Mapping[str, LinearMask],
    read: ReadTensor,
    dtype: ir.DataType,
    *,
    fuse: Collection[str] | None = None,
    split_cost: SplitCost | None = None,
    grids: Mapping[str, Grid] | None = None,
    stacking: Sequence[GraphPass] = (),
) -> LoweringPasses:
    """Returns the passes that compile each covered linear as planned, for a graph without weights.

    read: returns the values of a tensor (`<linear>.weight` or a bias) in `dtype`, called when they are written; fuse: names
    of the fusions to apply, None for all; split_cost: see `SplitLinearsPass`; grids: the grids of the quantised linears,
    whose weights `read` returns in a type that holds them exactly; stacking: passes behind the fusions.
    """
    from patch_compile.passes.fusion.base import fusion_passes
    from patch_compile.passes.lowering.gather_linears import GatherLinearsPass
    from patch_compile.passes.lowering.mask_linears import MaskLinearsPass
    from patch_compile.passes.lowering.pack_linears import PackLinearsPass
    from patch_compile.passes.lowering.split_linears import SplitLinearsPass

    return LoweringPasses(
        [GatherLinearsPass(plan, dtype), *fusion_passes(FUSIONS if fuse is None else fuse, plan), *stacking],
        PackLinearsPass(plan, masks, read, dtype, grids),
        SplitLinearsPass(plan, masks, read, dtype, split_cost),
        MaskLinearsPass(plan, masks, read, dtype),
    )


def describe_passes() -> list[tuple[str, str]]:
    """Returns the name and the docstring's first line of every pass of a compilation, in order."""
    import onnx_ir as ir

    lowering = lowering_passes({}, {}, _no_weight, ir.DataType.FLOAT16)
    kinds = [type(graph_pass) for graph_pass in (*cleanup_passes(), *lowering.in_order)]
    return [(kind.__name__, (inspect.getdoc(kind) or "").partition("\n")[0]) for kind in kinds]


def _no_weight(name: str) -> NoReturn:
    raise KeyError(name)
