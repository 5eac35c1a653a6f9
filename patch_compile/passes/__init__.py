"""Graph passes, one per file, and their order for an exported graph."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from patch_compile.packing.fusion import FUSIONS
from patch_compile.passes.run import GraphPass, PassDump, run_passes

if TYPE_CHECKING:
    import onnx_ir as ir
    from numpy.typing import NDArray

    from masklearn.masks.linear_mask import LinearMask
    from masklearn.quant.grid import Grid
    from patch_compile.passes.lowering.mask_linears import MaskLinearsPass
    from patch_compile.passes.lowering.pack_linears import PackLinearsPass
    from patch_compile.passes.lowering.packed_initializers import ReadTensor
    from patch_compile.passes.lowering.split_linears import SplitLinearsPass
    from patch_compile.planning.lowering import LinearPlan

__all__ = [
    "GraphPass",
    "LoweringPasses",
    "PassDump",
    "cleanup_passes",
    "describe_passes",
    "lowering_passes",
    "pass_classes",
    "rule_of",
    "run_passes",
]


def cleanup_passes() -> list[ir.passes.PassBase]:
    """Returns the passes, in order, that turn an exported graph into a graph that TensorRT parses. They read no weights."""
    from patch_compile.passes.cleanup import CLEANUP

    return [kind() for kind in CLEANUP]


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
            name: linear.model_copy(update={"split": splits.get(name)})
            for name, linear in self.packing.plan.items()
        }


def lowering_passes(
    plan: Mapping[str, LinearPlan],
    masks: Mapping[str, LinearMask],
    read: ReadTensor,
    dtype: ir.DataType,
    *,
    fuse: Collection[str] | None = None,
    grids: Mapping[str, Grid] | None = None,
    stacking: Sequence[GraphPass] = (),
) -> LoweringPasses:
    """Returns the passes that compile each covered linear as planned, for a graph without weights.

    read: returns the values of a tensor (`<linear>.weight` or a bias) in `dtype`, called when they are written; fuse: names
    of the fusions to apply, None for all; grids: the grids of the quantised linears, whose weights `read` returns in a type
    that holds them exactly; stacking: passes behind the fusions.
    """
    from patch_compile.passes.fusion.base import fusion_passes
    from patch_compile.passes.lowering.gather_linears import GatherLinearsPass
    from patch_compile.passes.lowering.mask_linears import MaskLinearsPass
    from patch_compile.passes.lowering.pack_linears import PackLinearsPass
    from patch_compile.passes.lowering.split_linears import SplitLinearsPass

    return LoweringPasses(
        [GatherLinearsPass(plan, dtype), *fusion_passes(FUSIONS if fuse is None else fuse, plan), *stacking],
        PackLinearsPass(plan, masks, read, dtype, grids),
        SplitLinearsPass(plan, masks, read, dtype, grids),
        MaskLinearsPass(plan, masks, read, dtype),
    )


def pass_classes() -> dict[str, tuple[type[GraphPass], ...]]:
    """Returns the classes of all passes by the folder that holds them, each folder in the order of its runs."""
    from patch_compile.passes.cleanup import CLEANUP
    from patch_compile.passes.fusion.base import fusion_passes
    from patch_compile.passes.lowering import LOWERING

    return {"cleanup": CLEANUP, "fusion": tuple(map(type, fusion_passes(FUSIONS, {}))), "lowering": LOWERING}


def rule_of(kind: type[GraphPass]) -> str:
    """Returns what a pass does in one line, `before -> after`: the first line of its docstring."""
    return (inspect.getdoc(kind) or "").partition("\n")[0]


def describe_passes() -> list[tuple[str, str]]:
    """Returns the name and the rule of every pass that compiles a checkpoint, in order."""
    import onnx_ir as ir

    no_weights: dict[str, NDArray[Any]] = {}
    lowering = lowering_passes({}, {}, no_weights.__getitem__, ir.DataType.FLOAT16)
    kinds = [type(graph_pass) for graph_pass in (*cleanup_passes(), *lowering.in_order)]
    return [(kind.__name__, rule_of(kind)) for kind in kinds]
