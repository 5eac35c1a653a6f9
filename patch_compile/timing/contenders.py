"""Writes the models that the hybrid model is compared with: the dense and the uniform 2:4 model."""

from __future__ import annotations

import shutil
from contextlib import nullcontext
from pathlib import Path

from masklearn.masks.maskset import MaskSet
from patch_compile.artifacts.bench import Contender
from patch_compile.artifacts.folder import OutFolder
from patch_compile.artifacts.layout import MASKS, ONNX_NAME
from patch_compile.planning.cost import CostModel
from patch_compile.progress import Progress
from patch_compile.recipe import Recipe
from patch_compile.sources.base import Source
from patch_compile.timing.uniform import UniformMasks

__all__ = ["masks_file", "write_contender"]


def write_contender(
    which: Contender,
    out: OutFolder,
    source: Source,
    costs: CostModel | None,
    folder: Path,
    progress: Progress,
) -> Path:
    """Write the ONNX file of a model that the hybrid one is timed against, and return its path.

    Each gets a folder of its own below `folder`. If the source of the build is an ONNX file, that file is the dense
    model. costs: the cost model that OUT was planned by; lowering `auto` needs it.
    """
    path = folder / which.folder / ONNX_NAME
    shutil.rmtree(path.parent, ignore_errors=True)
    path.parent.mkdir(parents=True)
    with progress.stage(f"{which} ONNX") as update:
        if which is Contender.DENSE:
            return source.dense_onnx(path)
        masks = UniformMasks(MaskSet.load(masks_file(out, source.recipe)), source.weight)
        plan = source.plan(masks, costs, {})  # rounding is the build's own, so its weights have 16 bits
        source.write_hybrid(source.model, masks, plan, path, lambda _: nullcontext(update))
    return path


def masks_file(out: OutFolder, r: Recipe) -> Path:
    """Returns the file of the build's masks. `compile` does not copy the masks into OUT, so they may lie elsewhere."""
    own = out.path / MASKS
    return own if own.is_file() or r.mask is None else r.mask
