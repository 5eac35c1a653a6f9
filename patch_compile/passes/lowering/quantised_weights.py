"""Weights of int8 and int4 on their way from the model's file to slabs: their integers, with errors that name the linear."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from masklearn.masks.linear_mask import LinearMask
from masklearn.model.prune import masked_weight
from masklearn.quant.grid import Grid
from patch_compile.errors import PatchCompileError
from patch_compile.packing.quantised import Quantised
from patch_compile.planning.lowering import LinearPlan

__all__ = ["check_grid", "check_scales", "packed_mask", "quantised"]


def check_grid(name: str, grid: Grid, shape: tuple[int, int], dtype: ir.DataType) -> None:
    """Raise PatchCompileError if a linear's scales do not fit its shape `[N, K]`, or the graph's 16-bit type."""
    try:
        grid.check_shape(shape)
    except ValueError as error:
        raise PatchCompileError(
            f"{name} can't have {grid.type} weights",
            f"{str(error)[:1].upper()}{str(error)[1:]}.",
            "Give the masks of this model, or learn them with int8 weights for this linear: "
            f"--weights '{name}=int8'.",
        ) from error
    check_scales(name, grid, dtype.name.lower())


def check_scales(name: str, grid: Grid, dtype: str) -> None:
    """Raise PatchCompileError if a graph of this type, float16 or bfloat16, does not hold a linear's scales."""
    if not grid.fits(dtype):
        other = "bfloat16" if dtype == "float16" else "float16"
        raise PatchCompileError(
            f"The {grid.type} scales of {name} are no numbers of {dtype}",
            f"They are those of a quantised checkpoint in {other}, and this graph would round them.",
            f"Give --dtype {other}.",
        )


def packed_mask(plan: LinearPlan, mask: LinearMask) -> LinearMask:
    """Returns the mask that slabs get their kinds from: without pruned tiles if the plan stores quantised slabs densely."""
    if plan.uses_zeros or not plan.weight_type.quantised:
        return mask
    return LinearMask(mask.shape, mask.tile, np.zeros_like(mask.tiles), np.zeros(0, np.uint8))


def quantised(
    plan: LinearPlan, weight: NDArray[Any], mask: LinearMask, grid: Grid
) -> tuple[Quantised, NDArray[Any]]:
    """Returns the integers of a weight `[N, K]`, and the weight that is packed: masked, if its pruned tiles are dense slabs.

    Raises PatchCompileError if a weight that the mask keeps is not on the grid.
    """
    stored = packed_mask(plan, mask)
    if stored is not mask:
        weight = masked_weight(weight, mask.keep())
    try:
        return Quantised.of(weight, stored, grid), weight
    except ValueError as error:
        raise PatchCompileError(
            f"The weights of {plan.name} are not those that its masks were written with",
            f"{str(error)[:1].upper()}{str(error)[1:]}.",
            "Use the masks and the model that were written together, as they were written, or learn the masks again.",
        ) from error
