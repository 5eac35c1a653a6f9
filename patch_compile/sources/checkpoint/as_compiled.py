"""Loads the pruned model with the weights that the compiled graph computes with, as the reference of a proof."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np

from masklearn.masks.maskset import MaskSet
from masklearn.model.checkpoint import Checkpoint
from masklearn.model.naming import linear_name
from masklearn.quant.grid import Grid
from masklearn.quant.table import INT8
from patch_compile.artifacts.layout import MASKS

__all__ = ["load_as_compiled"]


def load_as_compiled(
    pruned: Path, dtype: Literal["float16", "bfloat16"], masks: Path | None, *, sixteen_bits: bool = False
) -> Any:
    """Returns the model of transformers with weights as in a graph of this type, and arithmetic in fp32 or in the type.

    Weights are rounded to the type, but for those of int8, which a graph multiplies as they are and scales afterwards. The
    checkpoint holds quantised weights rounded to its own type, which may be coarser: they are computed anew from their
    integers. masks: the file with their scales, read if none lies beside the pruned model; None if there is none.
    """
    import torch

    from masklearn.model.linears import linear_weights
    from masklearn.model.models import load_model

    model = load_model(pruned, dtype=getattr(torch, dtype))
    model = model if sixteen_bits else model.float()
    if grids := _grids(pruned, masks):
        checkpoint, values = Checkpoint.open(pruned), {INT8.name: np.dtype(np.float32)}
        weights = {linear_name(checkpoint, name): weight for name, weight in linear_weights(model).items()}
        for name, grid in grids.items():
            weights[name].copy_(_weight(checkpoint, name, grid, values.get(grid.type.name, _numpy(dtype))))
    return model


def _grids(pruned: Path, masks: Path | None) -> Mapping[str, Grid]:
    own = pruned.parent / MASKS
    file = own if own.is_file() else masks
    return MaskSet.load(file).grids if file is not None else {}


def _weight(checkpoint: Checkpoint, name: str, grid: Grid, dtype: np.dtype[Any]) -> Any:
    """Returns the weight `[N, K]`, rounded to `dtype`, as a tensor of fp32."""
    import torch

    from patch_compile.onnx_io.write import read_weight

    integers = grid.integers(read_weight(checkpoint, f"{name}.weight", None))
    return torch.from_numpy(grid.values(integers, dtype).astype(np.float32))


def _numpy(dtype: str) -> np.dtype[Any]:
    import ml_dtypes

    return np.dtype(np.float16 if dtype == "float16" else ml_dtypes.bfloat16)
