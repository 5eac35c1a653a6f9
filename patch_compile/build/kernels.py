"""Tells if the kernels run the kinds of tiles that a build packs."""

from __future__ import annotations

from collections.abc import Mapping

from masklearn.masks.kinds.allowed import only_two_four
from masklearn.masks.linear_mask import LinearMask
from patch_compile.errors import PatchCompileError
from patch_compile.packing.slab_kinds import ALWAYS
from patch_compile.plan.lowering_patterns import AUTO, asked_lowerings
from patch_compile.sources.base import Source

__all__ = ["check_kernels", "kernels_run"]


def kernels_run(source: Source, masks: Mapping[str, LinearMask] | None = None) -> bool:
    """True if the kernels run all kinds of tiles that the masks have, or may have once they are learned.

    masks: those of the recipe's file; None reads them, if the recipe names a file.
    """
    if source.recipe.mask is None:
        return only_two_four(source.recipe.kinds)
    given = source.given.masks if masks is None else masks
    return not any(kind not in ALWAYS for mask in given.values() for kind in mask.by_kind())


def check_kernels(source: Source, masks: Mapping[str, LinearMask] | None = None) -> None:
    """Raise PatchCompileError if linears may be packed that no kernel runs. masks: as in `kernels_run`."""
    asked = asked_lowerings(source.recipe.lowering, list(source.coverage.linears))
    if not kernels_run(source, masks) and {AUTO, "plugin"} & {*asked.values()}:
        raise PatchCompileError(
            f"No kernel runs all kinds of tiles of {source.recipe.mask or f'--kinds {source.recipe.kinds}'}",
            f"The plugin runs {' and '.join(kind.name for kind in ALWAYS)}; ONNX Runtime computes the others.",
            "Build with --backend onnx, or with --lowering dense, which compiles other tiles as dense ones with zeros.",
        )
