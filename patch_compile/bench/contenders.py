"""What the hybrid model is timed against: the dense model and the uniform 2:4 one, compiled as it was."""

from __future__ import annotations

import shutil
from contextlib import nullcontext
from enum import StrEnum
from pathlib import Path

from masklearn.masks.maskset import MaskSet
from patch_compile.bench.uniform import UniformMasks
from patch_compile.out.folder import OutFolder
from patch_compile.out.layout import MASKS, ONNX, ONNX_NAME
from patch_compile.plan.cost import CostModel
from patch_compile.progress import Progress
from patch_compile.recipe import Recipe
from patch_compile.sources.base import Source

__all__ = ["Contender", "write_contender"]


class Contender(StrEnum):
    """Models that are timed, by the names that bench.json has for them."""

    DENSE = "dense"
    HYBRID = "hybrid"
    UNIFORM = "uniform-2:4"

    @property
    def folder(self) -> str:
        """A name that every file system takes."""
        return self.value.replace(":", "-")


def write_contender(
    which: Contender,
    out: OutFolder,
    source: Source,
    costs: CostModel | None,
    folder: Path,
    progress: Progress,
) -> Path:
    """The ONNX file of a model; the dense and the uniform 2:4 one are written, each to a folder of its own in `folder`.

    costs: what OUT was planned by, for the lowering `auto`. The dense model of an ONNX file is the file itself.
    """
    if which is Contender.HYBRID:
        return out.path / ONNX
    path = folder / which.folder / ONNX_NAME
    shutil.rmtree(path.parent, ignore_errors=True)
    path.parent.mkdir(parents=True)
    with progress.stage(f"{which} ONNX") as update:
        if which is Contender.DENSE:
            return source.dense_onnx(path)
        masks = UniformMasks(_masks_of(out, source.recipe), source.weight)
        plan = source.plan(masks, costs)
        source.write_hybrid(source.model, masks, plan, path, lambda _: nullcontext(update))
    return path


def _masks_of(out: OutFolder, r: Recipe) -> MaskSet:
    """The masks of the build; `compile` leaves them where they were."""
    own = out.path / MASKS
    return MaskSet.load(own if own.is_file() or r.mask is None else r.mask)
